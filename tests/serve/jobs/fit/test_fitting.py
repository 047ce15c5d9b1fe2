"""Populations fitted on top of another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router.feedback import FeedbackTable, tabulate
from serve.artifacts.artifact import Artifact
from serve.errors import ConfigurationError
from serve.jobs.fit.fitting import RefitConfig, drawn_to, influence, refit
from serve.jobs.fit.gathering import raw_reader
from tests.serve.jobs.fit.cases import PARENT, judgements

CONFIG = RefitConfig(rank=1, people_per_direction=20, em_iterations=4)


def table_of(num_people: int, num_events: int = 16) -> FeedbackTable:
    reader = raw_reader(PARENT.feature_space)
    people = [judgements(person, num_events) for person in range(num_people)]
    return tabulate([[one for event in events for one in reader.events(event)] for events in people])


@pytest.fixture(scope="module")
def fitted() -> tuple[Artifact, float, float]:
    artifact, candidate, before = refit(PARENT, table_of(60), CONFIG)
    return artifact, candidate.log_loss, before.log_loss


def test_a_taste_that_the_parent_does_not_know_is_learned(fitted: tuple[Artifact, float, float]) -> None:
    artifact, candidate, before = fitted
    assert candidate < before - 0.05
    population = artifact.population
    liked = np.array([0.0, 0.0, -1.0, 1.0])
    learned = population.basis[-2] / population.scale  # behind the parent's, before the shared reward
    cosine = abs(learned @ liked) / np.linalg.norm(learned) / np.linalg.norm(liked)
    assert cosine > 0.9


def test_named_directions_stay_what_they_were(fitted: tuple[Artifact, float, float]) -> None:
    population = fitted[0].population
    assert population.attribute_names[:2] == ("concise", "formal")
    np.testing.assert_array_equal(population.basis[:2], PARENT.population.basis[:2])
    np.testing.assert_array_equal(population.center, PARENT.population.center)
    assert fitted[0].space.dose_metric.shape == (population.num_features,) * 2


def test_few_people_stay_near_the_parent() -> None:
    fit = refit(PARENT, table_of(30), replace(CONFIG, rank=0))[0].population
    near = drawn_to(fit, PARENT.population, 30, parent_people=1e6)
    parent = PARENT.population
    mean = parent.mixture_weights @ parent.means
    np.testing.assert_allclose(near.means[0, :2], mean[:2], atol=1e-2)
    np.testing.assert_array_equal(drawn_to(fit, parent, 30, parent_people=0.0).covariances, fit.covariances)
    assert np.linalg.eigvalsh(near.covariances[0]).min() > 0.0


def test_too_few_people_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 25 are needed"):
        refit(PARENT, table_of(20), CONFIG)


def test_nobody_has_more_than_their_share() -> None:
    reader = raw_reader(PARENT.feature_space)
    counts = [10, 30, 10]
    events = [judgements(person, num) for person, num in enumerate(counts)]
    table = tabulate([[one for event in log for one in reader.events(event)] for log in events])
    assert influence(table) == pytest.approx(0.6)
