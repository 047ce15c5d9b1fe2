"""Artifact folders: what is written is read back, and nothing else is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.artifacts.artifact import Artifact
from serve.artifacts.storage import MANIFEST, Manifest, load, read_manifest, save, verify, version_of
from serve.engines.worker_messages import TokenFeatures
from serve.errors import ConfigurationError
from tests.serve.artifacts_for_tests import P, make_artifact


def manifest_of(artifact: Artifact, **changes: object) -> Manifest:
    space = artifact.feature_space
    manifest = Manifest(artifact.version, space.model, space.id, "2026-11-21", "palate artifacts make")
    return replace(manifest, **changes)  # type: ignore[arg-type]


def saved(artifact: Artifact, parent: Path) -> Path:
    return save(artifact, manifest_of(artifact), parent)


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Give a file other contents, in the manifest too."""
    (folder / name).write_bytes(data)
    described = json.loads((folder / MANIFEST).read_text())
    described["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(described))


def test_everything_comes_back(tmp_path: Path) -> None:
    artifact = replace(
        make_artifact(),
        audit={"formal": (0.0, 0.1)},
        max_dose=0.15,
        dose_temperature=0.8,
        min_p=0.02,
        repetition_penalty=1.05,
        tilt=0.4,
        instructions=("Be brief.",),
        instruction_effects=np.array([[1.0, 0.0, 0.5]]),
    )
    folder = save(artifact, manifest_of(artifact, metrics={"r2": 0.5}, parents=("a0",)), tmp_path)
    found = load(folder)
    for name, value in artifact.population.to_arrays().items():
        np.testing.assert_array_equal(found.population.to_arrays()[name], value)
    assert found.feature_space.id == artifact.feature_space.id
    assert (found.audit, found.max_dose, found.instructions) == ({"formal": (0.0, 0.1)}, 0.15, ("Be brief.",))
    assert (found.dose_temperature, found.min_p, found.repetition_penalty, found.tilt) == (0.8, 0.02, 1.05, 0.4)
    np.testing.assert_array_equal(found.response, artifact.response)
    assert found.instruction_effects is not None
    np.testing.assert_array_equal(found.instruction_effects, [[1.0, 0.0, 0.5]])
    assert [question.answers for question in found.questions] == [question.answers for question in artifact.questions]
    np.testing.assert_array_equal(found.questions[2].features, artifact.questions[2].features)
    manifest = verify(folder)
    assert (manifest.metrics, manifest.parents) == ({"r2": 0.5}, ("a0",))
    assert set(manifest.files) == {path.name for path in folder.iterdir()} - {MANIFEST}


def test_what_tokens_say_comes_back_and_names_another_version(tmp_path: Path) -> None:
    plain = make_artifact()
    tokens = TokenFeatures(np.array([7, 3]), np.array([0.2, 0.1], np.float32), np.ones((2, P), np.float32))
    artifact = replace(plain, feature_space=replace(plain.feature_space, token_features=tokens), tilt=0.3)
    folder = saved(artifact, tmp_path)
    found = load(folder).feature_space
    assert found.token_features is not None
    for name in ("tokens", "shares", "features"):
        np.testing.assert_array_equal(getattr(found.token_features, name), getattr(tokens, name))
    # What was measured in the one can be read in the other, but engines have to take the table.
    assert found.id == plain.feature_space.id
    assert found.engine_id != plain.feature_space.engine_id == plain.feature_space.id
    spaces = [one.feature_space.engine_id for one in (plain, artifact)]
    assert len({version_of(plain.population, "a", (), space) for space in spaces}) == 2
    wider = replace(tokens, features=np.ones((2, P + 1), np.float32))
    with pytest.raises(ValueError, match="Tokens have"):
        replace(plain.feature_space, token_features=wider)
    with pytest.raises(ValueError, match="tilt"):
        replace(plain, tilt=float("nan"))


def test_a_dose_falls_with_heat() -> None:
    artifact = replace(make_artifact(), dose_temperature=0.8)
    assert [artifact.bearable(heat) for heat in (0.0, 0.5, 0.8)] == [1.0, 1.0, 1.0]
    assert artifact.bearable(1.0) == pytest.approx(0.512)
    assert artifact.bearable(None) == artifact.bearable(1.0)  # what nothing said stands for
    assert artifact.bearable(1.6) == pytest.approx(0.125)


def test_a_version_is_written_once(tmp_path: Path) -> None:
    saved(make_artifact(), tmp_path)
    with pytest.raises(ConfigurationError, match="written once"):
        saved(make_artifact(), tmp_path)


def test_a_manifest_of_something_else_is_refused(tmp_path: Path) -> None:
    artifact = make_artifact()
    with pytest.raises(ConfigurationError, match="not the artifact's"):
        save(artifact, manifest_of(artifact, version="a2"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["population.json", "population.safetensors", "feature_space.safetensors"])
def test_a_changed_file_is_named_and_refused(tmp_path: Path, name: str) -> None:
    folder = saved(make_artifact(), tmp_path)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(ConfigurationError, match=name):
        load(folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = saved(make_artifact(), tmp_path)
    (folder / "questions.json").unlink()
    with pytest.raises(ConfigurationError, match=r"lacks questions\.json"):
        load(folder)


@pytest.mark.parametrize("name", ["population.safetensors", "questions.json", "feature_space.json"])
def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path: Path, name: str) -> None:
    folder = saved(make_artifact(), tmp_path)
    described = json.loads((folder / MANIFEST).read_text())
    described["files"].pop(name)
    (folder / MANIFEST).write_text(json.dumps(described))
    with pytest.raises(ConfigurationError, match=f"{name}, which its manifest does not list"):
        verify(folder)


def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = saved(make_artifact(), tmp_path)
    described = json.loads((folder / MANIFEST).read_text())
    described["files"]["../outside"] = {"bytes": 0, "sha256": ""}
    (tmp_path / "outside").write_text("")
    (folder / MANIFEST).write_text(json.dumps(described))
    with pytest.raises(ConfigurationError, match="outside"):
        verify(folder)


def test_another_format_and_a_broken_manifest_are_refused(tmp_path: Path) -> None:
    folder = saved(make_artifact(), tmp_path)
    described = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(described | {"format": 99}))
    with pytest.raises(ConfigurationError, match="format 99"):
        read_manifest(folder)
    (folder / MANIFEST).write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_manifest(folder)


def test_a_killed_save_leaves_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serve.artifacts.storage.sync", dies)
    with pytest.raises(KeyboardInterrupt):
        saved(make_artifact(), tmp_path)
    assert not list(tmp_path.iterdir())


OTHERWISE: dict[str, Callable[[Any], Any]] = {
    "basis": lambda population: 2.0 * population.basis,
    "center": lambda population: population.center + 1.0,
    "scale": lambda population: 2.0 * population.scale,
    "mixture_weights": lambda population: population.mixture_weights[::-1],
    "means": lambda population: population.means + 1.0,
    "covariances": lambda population: 2.0 * population.covariances,
    "base_weights": lambda population: population.base_weights + 1.0,
    "gating_weights": lambda population: np.ones((population.num_prototypes, 3)),
    "flip_rate": lambda population: population.flip_rate + 0.01,
    "threshold_means": lambda population: population.threshold_means + 1.0,
    "threshold_variances": lambda population: 2.0 * population.threshold_variances,
    "threshold_covariances": lambda population: population.threshold_covariances + 0.01,
    "rating_cuts": lambda population: 2.0 * population.rating_cuts,
    "tempering": lambda population: 0.5,
    "attribute_names": lambda population: tuple(f"{name}!" for name in population.attribute_names),
    "drift_half_life_s": lambda population: 3600.0,
}


def test_versions_follow_all_contents() -> None:
    population = make_artifact().population
    assert version_of(population, "x") == version_of(replace(population, version="other"), "x")
    names = {
        name: version_of(replace(population, **{name: change(population)}), "x") for name, change in OTHERWISE.items()
    }
    assert len({version_of(population, "x"), *names.values()}) == 1 + len(names), names
    assert OTHERWISE.keys() | {"version"} == {field.name for field in fields(population) if field.init}
