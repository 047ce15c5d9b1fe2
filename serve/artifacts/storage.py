"""Artifact folders: written aside and renamed, read back only when every file is what the manifest says.

A folder holds `manifest.json`, `population.json` with `population.safetensors`, the feature space, `questions.json`
with `questions.safetensors`, and a folder for each adapter: JSON and safetensors only, nothing that could run. Knows
no engines, stores or services.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from router.types import Population
from serve.artifacts import adapters
from serve.artifacts.artifact import Artifact, Question
from serve.engines.feature_space import FeatureSpace
from serve.errors import ConfigurationError

MANIFEST = "manifest.json"
POPULATION = "population"
QUESTIONS = "questions"
FORMAT = 2  # 2: an audit holds doses


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one version is and where it comes from."""

    version: str
    model: str
    feature_space: str  # its id
    created: str  # date, UTC
    command: str  # that made it
    parents: tuple[str, ...] = ()  # versions it was fitted from or compared with
    data: dict[str, Any] = field(default_factory=dict)  # people, events, window
    metrics: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> bytes, sha256
    format: int = FORMAT


def version_of(
    population: Population, name: str, adapter_folders: Sequence[str | None] = (), feature_space: str = ""
) -> str:
    """Name a version after its contents: two populations, or one with other adapters or directions, never share one.

    Only `save_new` names versions so; one that is there keeps its name, whatever an earlier release derived it from.
    """
    described = {key: array.tolist() for key, array in population.to_arrays().items() if key != "version"}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())  # Python writes numbers to the last bit
    digest.update(feature_space.encode())
    for number, folder in enumerate(adapter_folders):
        if folder is not None:
            digest.update(f"{number}:{adapters.digest_of(Path(folder))}".encode())
    return f"{name}-{digest.hexdigest()[:10]}"


def save(artifact: Artifact, manifest: Manifest, parent: Path) -> Path:
    """Write an artifact below `parent` in a folder named after its version; return the folder.

    Raises:
        ConfigurationError: the version is there already, or the manifest speaks of another artifact.
    """
    if (manifest.version, manifest.feature_space) != (artifact.version, artifact.feature_space.id):
        raise ConfigurationError("The manifest's version or feature space is not the artifact's.")
    folder = parent / artifact.version
    if folder.exists():
        raise ConfigurationError(f"{folder} exists; a version is written once.")
    parent.mkdir(parents=True, exist_ok=True)
    aside = parent / f".{artifact.version}-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        _write(artifact, aside)
        files = {path.relative_to(aside).as_posix(): _fingerprint(path) for path in _files(aside)}
        described = asdict(manifest) | {"files": files, "parents": list(manifest.parents)}
        (aside / MANIFEST).write_text(json.dumps(described, indent=1) + "\n")
        for path in _files(aside):
            path.chmod(0o644)
            sync(path)
        for path in aside.iterdir():
            if path.is_dir():
                sync(path)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sync(parent)
    return folder


def verify(folder: Path) -> Manifest:
    """Check every file against the manifest and return it.

    Raises:
        ConfigurationError: something is missing, changed, not listed or unreadable; the message names it.
    """
    manifest = read_manifest(folder)
    unlisted = {path.relative_to(folder).as_posix() for path in _files(folder)} - {MANIFEST, *manifest.files}
    if unlisted:
        raise ConfigurationError(f"{folder} holds {', '.join(sorted(unlisted))}, which its manifest does not list.")
    for name, expected in manifest.files.items():
        path = folder / name
        if not _is_inside(name) or not path.is_file():
            raise ConfigurationError(f"The artifact in {folder} lacks {name}; fetch or publish it again.")
        if _fingerprint(path) != expected:
            raise ConfigurationError(f"{path} is not what the manifest says; the artifact is damaged and not used.")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read a manifest without checking the files. Raises ConfigurationError where that cannot be done."""
    try:
        fields = json.loads((folder / MANIFEST).read_text())
        if fields.get("format") != FORMAT:
            raise ConfigurationError(
                f"{folder} has artifact format {fields.get('format')}; this version reads {FORMAT}."
            )
        return Manifest(**fields | {"parents": tuple(fields["parents"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{folder / MANIFEST} cannot be read: {error}") from error


def load(folder: Path) -> Artifact:
    """Verify and read an artifact. Raises ConfigurationError with the reason why it cannot be used."""
    manifest = verify(folder)
    try:
        space = FeatureSpace.load(folder)
        described = json.loads((folder / f"{POPULATION}.json").read_text())
        arrays = {
            name: array.astype(np.float64) for name, array in load_file(folder / f"{POPULATION}.safetensors").items()
        }
        response, effects = arrays.pop("response"), arrays.pop("instruction_effects", None)
        fields = {name: np.asarray(value) for name, value in described["population"].items()}
        artifact = Artifact(
            population=Population.from_arrays(arrays | fields),
            feature_space=space,
            response=response,
            audit={name: (float(against), float(along)) for name, (against, along) in described["audit"].items()},
            max_dose=described["max_dose"],
            dose_temperature=described.get("dose_temperature", 1.0),
            min_p=described.get("min_p", 0.0),
            repetition_penalty=described.get("repetition_penalty", 1.0),
            tilt=described.get("tilt", 0.0),
            adapters=adapters.resolved(folder, described["adapters"]),
            instructions=tuple(described["instructions"]),
            instruction_effects=effects,
            questions=_read_questions(folder),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigurationError(f"The artifact in {folder} cannot be read: {error}") from error
    if (artifact.version, space.id) != (manifest.version, manifest.feature_space):
        raise ConfigurationError(f"The artifact in {folder} is not the version or feature space its manifest names.")
    return artifact


def sync(path: Path) -> None:
    """Bring a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(artifact: Artifact, folder: Path) -> None:
    artifact.feature_space.save(folder)
    described: dict[str, Any] = {}
    arrays: dict[str, Any] = {"response": artifact.response}
    if artifact.instruction_effects is not None:
        arrays["instruction_effects"] = artifact.instruction_effects
    for name, value in artifact.population.to_arrays().items():
        if value.dtype.kind == "U" or value.ndim == 0:
            described[name] = value.tolist()
        else:
            arrays[name] = value
    settings = {
        "population": described,
        "audit": artifact.audit,
        "max_dose": artifact.max_dose,
        "dose_temperature": artifact.dose_temperature,
        "min_p": artifact.min_p,
        "repetition_penalty": artifact.repetition_penalty,
        "tilt": artifact.tilt,
        "adapters": _copy_adapters(artifact, folder),
        "instructions": list(artifact.instructions),
    }
    (folder / f"{POPULATION}.json").write_text(json.dumps(settings, indent=1) + "\n")
    save_file(
        {name: _contiguous(array, np.float64) for name, array in arrays.items()}, folder / f"{POPULATION}.safetensors"
    )
    if artifact.questions:
        texts = [{"prompt": question.prompt, "answers": list(question.answers)} for question in artifact.questions]
        (folder / f"{QUESTIONS}.json").write_text(json.dumps(texts, indent=1, ensure_ascii=False) + "\n")
        stacked = np.concatenate([question.features for question in artifact.questions])
        save_file({"features": _contiguous(stacked, np.float32)}, folder / f"{QUESTIONS}.safetensors")


def _read_questions(folder: Path) -> tuple[Question, ...]:
    path = folder / f"{QUESTIONS}.json"
    if not path.exists():
        return ()
    rows = json.loads(path.read_text())
    features = load_file(folder / f"{QUESTIONS}.safetensors")["features"].astype(np.float32)
    ends = np.cumsum([len(row["answers"]) for row in rows])
    parts = np.split(features.reshape(ends[-1], -1), ends[:-1])
    return tuple(Question(row["prompt"], tuple(row["answers"]), part) for row, part in zip(rows, parts, strict=True))


def _copy_adapters(artifact: Artifact, folder: Path) -> list[str | None]:
    """Copy the adapters and return their names in the folder."""
    names: list[str | None] = []
    for number, source in enumerate(artifact.adapters):
        names.append(None if source is None else adapters.folder_name(number))
        if source is not None:
            adapters.copy(Path(source), folder / adapters.folder_name(number))
    return names


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_inside(name: str) -> bool:
    """Whether a manifest's file lies in the artifact's folder, or in a folder of that."""
    parts = PurePosixPath(name).parts
    return 1 <= len(parts) <= 2 and not {"..", "/"} & set(parts)


def _contiguous(array: Any, kind: type[np.floating[Any]]) -> Any:
    return np.ascontiguousarray(array, dtype=kind)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
