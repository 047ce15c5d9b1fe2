"""Arms by hash, one running experiment a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serve.artifacts.experiments import CANDIDATE, EXPERIMENTS, Experiment, read_experiments
from serve.artifacts.registry import Registry
from serve.artifacts.storage import save
from serve.errors import ConfigurationError
from tests.serve.artifacts.test_storage import manifest_of
from tests.serve.artifacts_for_tests import make_artifact
from tests.serve.publishing import registry_of
from user_store.types import UserKey

MODEL = "scripted-model"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = registry_of(tmp_path, make_artifact("one"), make_artifact("two"))
    registry.publish("one")
    return registry


def test_arms_are_spread_stay_and_change_with_the_name() -> None:
    keys = [UserKey("t", f"u{number}") for number in range(3000)]

    def on_candidate(name: str, share: float) -> set[UserKey]:
        experiment = Experiment(name, "m", "two", "one", share, 0.0)
        return {key for key in keys if experiment.arm_of(key) == CANDIDATE}

    tenth, half = on_candidate("a", 0.1), on_candidate("a", 0.5)
    assert abs(len(tenth) - 300) < 66  # four standard deviations
    assert tenth < half  # a larger share keeps those who were on the candidate
    other = on_candidate("b", 0.5)
    assert abs(np.mean([key in other for key in half]) - 0.5) < 0.06


def test_one_experiment_a_model_at_a_time(registry: Registry) -> None:
    found = registry.start_experiment("try", "two", 0.2, now=5.0)
    assert registry.experiment(MODEL) == found == Experiment("try", MODEL, "two", "one", 0.2, 5.0)
    with pytest.raises(ConfigurationError, match="'try' is running"):
        registry.start_experiment("again", "two", 0.2, now=6.0)
    assert registry.stop_experiment(MODEL) == found
    assert registry.experiment(MODEL) is None
    with pytest.raises(ConfigurationError, match="No experiment is running"):
        registry.stop_experiment(MODEL)
    with pytest.raises(ConfigurationError, match="another name draws other people"):
        registry.start_experiment("try", "two", 0.2, now=7.0)
    actions = [row["action"] for row in registry.history()]
    assert actions == ["publish", "start experiment", "stop experiment"]


def test_what_cannot_be_tried(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="against another version"):
        registry.start_experiment("try", "one", 0.2, now=5.0)
    alone = make_artifact("alone", "other-model")
    save(alone, manifest_of(alone), registry.home.artifacts)
    with pytest.raises(ConfigurationError, match="against another version"):
        registry.start_experiment("try", "alone", 0.2, now=5.0)
    (registry.home.artifacts / "two" / "population.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"population\.json"):
        registry.start_experiment("try", "two", 0.2, now=5.0)


def test_publishing_waits_for_its_end_and_rollback_ends_it(registry: Registry) -> None:
    registry.publish("two", is_forced=True)
    registry.start_experiment("try", "one", 0.2, now=5.0)
    with pytest.raises(ConfigurationError, match="palate experiments stop"):
        registry.publish("one")
    registry.rollback(MODEL)
    assert registry.experiment(MODEL) is None


def test_a_file_that_cannot_be_read_is_named(registry: Registry) -> None:
    (registry.home.artifacts / EXPERIMENTS).write_text("[1]")
    with pytest.raises(ConfigurationError, match=EXPERIMENTS):
        read_experiments(registry.home.artifacts)
