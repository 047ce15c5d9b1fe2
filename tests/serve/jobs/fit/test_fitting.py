"""Populations fitted on top of another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router.feedback import FeedbackTable
from router.tabulation import tabulate
from router.types import Array
from serve.errors import ConfigurationError
from serve.jobs.fit.fitting import Refit, RefitConfig, drawn_to, refit
from serve.jobs.fit.gathering import raw_reader
from tests.serve.jobs.fit.cases import PARENT, judgements

CONFIG = RefitConfig(rank=1, people_per_direction=20, em_iterations=4)


def table_of(num_people: int, num_events: int = 16) -> FeedbackTable:
    reader = raw_reader(PARENT.feature_space)
    people = [judgements(person, num_events) for person in range(num_people)]
    return tabulate([[one for event in events for one in reader.events(event)] for events in people])


def places(num_people: int) -> Array:
    """Every fifth person is held out."""
    return np.where(np.arange(num_people) % 5 == 1, 0.0, 0.5)


@pytest.fixture(scope="module")
def fitted() -> Refit:
    return refit(PARENT, table_of(60), places(60), CONFIG)


def test_a_taste_that_the_parent_does_not_know_is_learned(fitted: Refit) -> None:
    assert fitted.candidate.log_loss < fitted.parent.log_loss - 0.05
    population = fitted.artifact.population
    liked = np.array([0.0, 0.0, -1.0, 1.0])
    learned = population.basis[-2] / population.scale  # behind the parent's, before the shared reward
    cosine = abs(learned @ liked) / np.linalg.norm(learned) / np.linalg.norm(liked)
    assert cosine > 0.9


def test_the_held_out_judge_and_do_not_teach(fitted: Refit) -> None:
    assert (fitted.num_people, fitted.candidate.num_people) == (48, 12)


def test_named_directions_stay_what_they_were(fitted: Refit) -> None:
    population = fitted.artifact.population
    assert population.attribute_names[:2] == ("concise", "formal")
    np.testing.assert_array_equal(population.basis[:2], PARENT.population.basis[:2])
    np.testing.assert_array_equal(population.center, PARENT.population.center)
    assert fitted.artifact.space.dose_metric.shape == (population.num_features,) * 2


def test_the_prior_is_drawn_to_the_parents() -> None:
    fit = refit(PARENT, table_of(30), places(30), replace(CONFIG, rank=0)).artifact.population
    parent = PARENT.population
    near = drawn_to(fit, parent, 0.9999)
    np.testing.assert_allclose(near.means[0, :2], (parent.mixture_weights @ parent.means)[:2], atol=1e-2)
    np.testing.assert_array_equal(drawn_to(fit, parent, 0.0).covariances, fit.covariances)
    assert np.linalg.eigvalsh(near.covariances[0]).min() > 0.0


def test_what_one_person_may_move_draws_it_to_the_parents(fitted: Refit) -> None:
    strict = refit(PARENT, table_of(60), places(60), replace(CONFIG, max_move=0.01))
    assert strict.parent_share > fitted.parent_share
    assert strict.move == pytest.approx(0.01)  # just as far as it may, up to rounding
    assert 0.011 < fitted.move <= CONFIG.max_move


def test_what_is_learned_leans_on_the_large_movements_of_the_states() -> None:
    """The same fit in a space whose last feature stands for a movement a hundred times as small."""
    space = PARENT.feature_space
    basis = space.projection.basis.copy()
    basis[-1] *= 100.0
    small = replace(PARENT, feature_space=replace(space, projection=replace(space.projection, basis=basis)))
    shares = []
    for parent in (PARENT, small):
        learned = refit(parent, table_of(60), places(60), CONFIG).artifact.population.basis[-2]
        shares.append(learned[-1] ** 2 / (learned @ learned))
    assert shares[0] > 0.2
    assert shares[1] < 0.01


def test_too_few_people_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="16 people to learn from and 4 held out"):
        refit(PARENT, table_of(20), places(20), CONFIG)


def test_people_too_few_for_their_share_are_told_so() -> None:
    with pytest.raises(ConfigurationError, match=r"16 people cannot each hold at most 5\.0%"):
        refit(PARENT, table_of(20), places(20), replace(CONFIG, min_people=16))
