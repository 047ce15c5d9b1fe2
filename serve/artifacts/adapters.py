"""Adapters of an artifact: one folder a prototype, in the layout PEFT writes and vLLM's multi-LoRA loads.

An artifact names each by its folder's path; in the artifact's own folder they are `adapter-<prototype>`. Two files
each, JSON and safetensors, and nothing else: what else lay there might be loaded too. Knows neither training nor
engines.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from serve.artifacts.artifact import Artifact
from serve.errors import ConfigurationError

logger = logging.getLogger("palate.artifacts")

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = (CONFIG, WEIGHTS)


def folder_name(prototype: int) -> str:
    """Name a prototype's adapter inside an artifact's folder."""
    return f"adapter-{prototype}"


def check(folder: Path) -> None:
    """Raise ConfigurationError unless a folder holds an adapter's two files and nothing else."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if found != set(FILES):
        what = ", ".join(sorted(found ^ set(FILES)))
        raise ConfigurationError(f"{folder} must hold {' and '.join(FILES)} alone; missing or too many: {what}.")


def copy(source: Path, target: Path) -> None:
    """Copy an adapter. Raises ConfigurationError as `check`."""
    check(source)
    target.mkdir()
    for name in FILES:
        shutil.copyfile(source / name, target / name)


def rank_of(folder: Path) -> int:
    """Read an adapter's rank. Raises ConfigurationError where that cannot be done."""
    try:
        return int(json.loads((folder / CONFIG).read_text())["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{folder / CONFIG} cannot be read: {error}") from error


def digest_of(folder: Path) -> str:
    """Hash an adapter: its files' SHA-256, in order."""
    digest = hashlib.sha256()
    for name in FILES:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def resolved(folder: Path, names: Sequence[str | None]) -> tuple[str | None, ...]:
    """Turn the names an artifact's folder holds into paths. Raises ConfigurationError for names that lead elsewhere."""
    for number, name in enumerate(names):
        if name not in (None, folder_name(number)):
            raise ConfigurationError(f"{folder} names '{name}' as the adapter of prototype {number}.")
        if name is not None:
            check(folder / name)
    return tuple(None if name is None else str((folder / name).absolute()) for name in names)


def servable(artifact: Artifact, max_loras: int, max_rank: int) -> Artifact:
    """Return the artifact without the adapters that engines so configured do not take; which is logged."""
    reasons = [_refusal(adapter, max_loras, max_rank) for adapter in artifact.adapters]
    if not any(reasons):
        return artifact
    logger.warning("%s serves without some of its adapters: %s", artifact.version, "; ".join(filter(None, reasons)))
    kept = [None if reason else adapter for adapter, reason in zip(artifact.adapters, reasons, strict=True)]
    return replace(artifact, adapters=tuple(kept))


def _refusal(adapter: str | None, max_loras: int, max_rank: int) -> str:
    if adapter is None:
        return ""
    name = Path(adapter).name
    if not max_loras:
        return f"{name}: engine.max_loras is 0"
    rank = rank_of(Path(adapter))
    return f"{name}: its rank {rank} is above engine.max_lora_rank {max_rank}" if rank > max_rank else ""
