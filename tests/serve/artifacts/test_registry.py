"""What is in service: published, rolled back, shipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import Registry, load_default, load_in_service
from serve.artifacts.storage import save
from serve.errors import ConfigurationError
from serve.home import Home
from serve.models import DEFAULT_MODEL
from tests.serve.artifacts.test_storage import manifest_of, rewrite
from tests.serve.artifacts_for_tests import make_artifact, make_space

MODEL = make_space().model


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    artifact = make_artifact("shipped")
    save(artifact, manifest_of(artifact), tmp_path / "shipped")
    return tmp_path / "shipped"


@pytest.fixture
def registry(tmp_path: Path, shipped: Path) -> Registry:
    home = Home(tmp_path / "home").create()
    for version in ("one", "two"):
        artifact = make_artifact(version)
        save(artifact, manifest_of(artifact), home.artifacts)
    return Registry(home, shipped)


def serving(registry: Registry) -> str:
    artifact = load_in_service(registry.home, MODEL, registry.shipped)
    assert artifact is not None
    starred = [entry.manifest.version for entry in registry.entries() if entry.is_in_service]
    assert starred == [artifact.version]
    return artifact.version


def test_the_shipped_one_serves_until_another_is_published(registry: Registry) -> None:
    assert serving(registry) == "shipped"
    registry.publish("one", is_forced=True)
    assert serving(registry) == "one"
    registry.publish("two", is_forced=True)
    assert serving(registry) == "two"


def test_rollback_goes_back_step_by_step(registry: Registry) -> None:
    registry.publish("one", is_forced=True)
    registry.publish("shipped")
    registry.publish("two", is_forced=True)
    assert registry.rollback(MODEL) == ""
    assert serving(registry) == "shipped"
    assert registry.rollback(MODEL) == "one"
    assert serving(registry) == "one"
    assert registry.rollback(MODEL) == ""
    with pytest.raises(ConfigurationError, match="Nothing was published"):
        registry.rollback(MODEL)
    assert serving(registry) == "shipped"


def test_a_damaged_version_is_refused_and_the_old_one_stays(registry: Registry) -> None:
    registry.publish("one", is_forced=True)
    (registry.home.artifacts / "two" / "population.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"population\.json"):
        registry.publish("two", is_forced=True)
    assert serving(registry) == "one"


def test_what_servers_could_not_load_is_not_published(registry: Registry) -> None:
    (registry.home.artifacts / "two").rename(registry.home.artifacts / "mine")
    with pytest.raises(ConfigurationError, match="mine holds version two: rename"):
        registry.publish("two", is_forced=True)
    registry.publish("one", is_forced=True)
    with pytest.raises(ConfigurationError, match="mine holds version two: rename"):
        registry.start_experiment("trial", "two", 0.1, 0.0)
    (registry.home.artifacts / "mine").rename(registry.home.artifacts / "two")
    rewrite(registry.home.artifacts / "two", "population.json", b"{}")  # whole by its manifest, and yet unreadable
    with pytest.raises(ConfigurationError, match="cannot be read"):
        registry.publish("two", is_forced=True)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        registry.start_experiment("trial", "two", 0.1, 0.0)
    assert serving(registry) == "one"


def test_the_version_in_service_can_be_published_again(registry: Registry) -> None:
    registry.publish("one", is_forced=True)
    registry.publish("in-service")
    assert serving(registry) == "one"


def test_a_version_damaged_in_service_says_how_to_go_back(registry: Registry) -> None:
    registry.publish("one", is_forced=True)
    (registry.home.artifacts / "one" / "population.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="rollback"):
        load_in_service(registry.home, MODEL, registry.shipped)
    registry.rollback(MODEL)
    assert serving(registry) == "shipped"


def test_another_feature_space_needs_force(registry: Registry) -> None:
    artifact = make_artifact("other")
    space = replace(artifact.feature_space, directions=2.0 * artifact.feature_space.directions)
    other: Artifact = replace(artifact, feature_space=space)
    save(other, manifest_of(other), registry.home.artifacts)
    with pytest.raises(ConfigurationError, match="feature space"):
        registry.publish("other")
    registry.publish("other", is_forced=True)
    assert serving(registry) == "other"


def test_unknown_versions_and_models(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="one, two"):
        registry.publish("three")
    assert load_in_service(registry.home, "another-model", registry.shipped) is None
    assert load_default(MODEL, registry.shipped / "nowhere") is None


def test_what_ships_loads_and_can_personalize() -> None:
    artifact = load_default(DEFAULT_MODEL.name)
    assert artifact is not None
    assert {"concise", "formal", "warm", "lists", "questions", "plain_words"} <= set(
        artifact.population.attribute_names
    )
    assert artifact.feature_space.directions.shape == (576, artifact.feature_space.num_features)
    assert max(artifact.feature_space.pooled_layers) <= artifact.feature_space.steered_layer
    assert len(artifact.questions) >= 8
    assert artifact.space.typical > 0.0
    total = sum(path.stat().st_size for path in Registry(Home(Path("/nowhere"))).entries()[0].folder.iterdir())
    assert total <= 6_700_000


def test_everything_is_written_down(registry: Registry) -> None:
    assert registry.history() == []
    registry.publish("one", is_forced=True)
    registry.publish("shipped")  # was delivered with the server; needs no ruling
    registry.rollback(MODEL)
    rows = registry.history()
    assert [(row["action"], row["version"], row["before"]) for row in rows] == [
        ("publish", "one", "shipped"),
        ("publish", "shipped", "one"),
        ("rollback", "one", ""),
    ]
    assert "was not compared with shipped" in rows[0]["objection"]
    assert not rows[1]["objection"]


def test_without_a_ruling_nothing_replaces_what_serves(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="palate evaluate release one"):
        registry.publish("one")
    assert serving(registry) == "shipped"
