"""Adapters inside artifact folders: they travel whole, are checked, and are left out where engines do not take them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from serve.artifacts.adapters import CONFIG, WEIGHTS, digest_of, rank_of, servable
from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import find_artifact
from serve.artifacts.storage import MANIFEST, load, save, verify, version_of
from serve.config import Config, EngineConfig, ModelConfig, PersonalizationConfig
from serve.errors import ConfigurationError
from serve.home import Home
from tests.serve.artifacts.test_storage import manifest_of, rewrite
from tests.serve.artifacts_for_tests import make_artifact


def write_adapter(folder: Path, rank: int = 4, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps({"r": rank, "lora_alpha": 8}))
    save_file({"a": np.random.default_rng(seed).normal(size=(rank, 3))}, folder / WEIGHTS)
    return folder


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """Two prototypes, the second with an adapter."""
    return replace(make_artifact(), adapters=(None, str(write_adapter(tmp_path / "made"))))


def saved(artifact: Artifact, parent: Path) -> Path:
    return save(artifact, manifest_of(artifact), parent)


def test_an_adapter_travels_with_its_artifact(artifact: Artifact, tmp_path: Path) -> None:
    folder = saved(artifact, tmp_path / "home")
    assert {f"adapter-1/{CONFIG}", f"adapter-1/{WEIGHTS}"} <= set(verify(folder).files)
    found = load(folder)
    assert found.adapters == (None, str(folder / "adapter-1"))
    assert found.space.adapters == found.adapters
    assert digest_of(folder / "adapter-1") == digest_of(tmp_path / "made")
    again = saved(replace(found, population=replace(found.population, version="a2")), tmp_path / "elsewhere")
    assert load(again).adapters == (None, str(again / "adapter-1"))


def test_other_adapters_make_another_version(artifact: Artifact, tmp_path: Path) -> None:
    other = str(write_adapter(tmp_path / "other", seed=1))
    one = artifact.adapters[1]
    names = [
        version_of(artifact.population, "x", each) for each in ((), (None, None), (None, one), (None, other), (one,))
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 4


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_changed_adapter_is_refused(artifact: Artifact, tmp_path: Path, name: str) -> None:
    folder = saved(artifact, tmp_path / "home")
    data = bytearray((folder / "adapter-1" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "adapter-1" / name).write_bytes(bytes(data))
    with pytest.raises(ConfigurationError, match=f"adapter-1/{name}"):
        load(folder)


def test_what_else_lies_beside_the_weights_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    folder = saved(artifact, tmp_path / "home")
    (folder / "adapter-1" / "adapter_model.bin").write_bytes(b"pickled")
    with pytest.raises(ConfigurationError, match=r"adapter-1/adapter_model\.bin, which its manifest does not list"):
        load(folder)
    rewrite(folder, "adapter-1/adapter_model.bin", b"pickled")
    with pytest.raises(ConfigurationError, match=r"too many: adapter_model\.bin"):
        load(folder)
    with pytest.raises(ConfigurationError, match="missing or too many"):
        saved(replace(artifact, adapters=(str(folder / "adapter-1"), None)), tmp_path / "elsewhere")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_name_that_leads_elsewhere_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    folder = saved(artifact, tmp_path / "home")
    for names in (["../made", None], [None, "/elsewhere"], ["adapter-1", None]):
        described = json.loads((folder / "population.json").read_text()) | {"adapters": names}
        rewrite(folder, "population.json", json.dumps(described).encode())
        with pytest.raises(ConfigurationError, match="as the adapter of prototype"):
            load(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b/c", ""])
def test_a_manifest_speaks_of_files_inside_alone(artifact: Artifact, tmp_path: Path, name: str) -> None:
    folder = saved(artifact, tmp_path / "home")
    described = json.loads((folder / MANIFEST).read_text())
    described["files"][name] = {"bytes": 0, "sha256": ""}
    (folder / MANIFEST).write_text(json.dumps(described))
    with pytest.raises(ConfigurationError, match="lacks"):
        verify(folder)


def test_weights_that_the_manifest_does_not_list_are_not_used(artifact: Artifact, tmp_path: Path) -> None:
    folder = saved(artifact, tmp_path / "home")
    described = json.loads((folder / MANIFEST).read_text())
    del described["files"][f"adapter-1/{WEIGHTS}"]
    (folder / MANIFEST).write_text(json.dumps(described))
    with pytest.raises(ConfigurationError, match="does not list"):
        load(folder)


def test_engines_that_take_no_adapters_get_none(artifact: Artifact, caplog: pytest.LogCaptureFixture) -> None:
    assert servable(artifact, 1, 4) is artifact
    assert servable(artifact, 0, 4).adapters == (None, None)
    assert "engine.max_loras is 0" in caplog.text
    assert servable(artifact, 1, 3).adapters == (None, None)
    assert "rank 4 is above engine.max_lora_rank 3" in caplog.text
    plain = make_artifact()
    assert servable(plain, 0, 0) is plain


def test_a_damaged_description_is_said(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "x")
    (folder / CONFIG).write_text("{}")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        rank_of(folder)


def test_the_configuration_decides_whether_a_server_has_adapters(artifact: Artifact, tmp_path: Path) -> None:
    folder = saved(artifact, tmp_path / "home")
    for max_loras, expected in ((0, (None, None)), (2, (None, str(folder / "adapter-1")))):
        config = Config(
            model=ModelConfig(id=artifact.feature_space.model),
            engine=EngineConfig(max_loras=max_loras),
            personalization=PersonalizationConfig(artifact=folder),
        )
        found = find_artifact(config, Home(tmp_path))
        assert found is not None
        assert found.adapters == expected
