"""Directions in which people differ beyond the named ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router.feedback import FeedbackTable, binary_table
from router.types import Array
from serve.errors import ConfigurationError
from serve.jobs.steering.discovery import Discovery, DiscoveryConfig, discover, half_differences
from tests.serve.jobs.fit.cases import PARENT

CONFIG = DiscoveryConfig(num_directions=2, em_iterations=4)
POPULATION = PARENT.population
NUM_PEOPLE, NUM_EVENTS = 80, 16


def crowd(tastes: Array, seed: int = 0) -> FeedbackTable:
    """People with tastes (U, P) over raw features, of which the first two are correlated with the others."""
    rng = np.random.default_rng(seed)
    U, P = tastes.shape
    people = np.repeat(np.arange(U), NUM_EVENTS)
    features = rng.normal(size=(2 * len(people), P))
    features[:, 2] += 0.6 * features[:, 0]
    first, second = np.arange(len(people)), np.arange(len(people)) + len(people)
    scores = ((features[first] - features[second]) * tastes[people]).sum(axis=1)
    likes = rng.random(len(people)) < 1.0 / (1.0 + np.exp(-scores))
    none = np.zeros(len(people))
    return binary_table(features, people, np.where(likes, first, second), np.where(likes, second, first), none)


def places(num: int) -> Array:
    """Every fourth person is held out."""
    return np.where(np.arange(num) % 4 == 1, 0.0, 0.5)


def signs(num: int) -> Array:
    return np.where(np.arange(num) % 2 == 0, 1.0, -1.0)[:, None]


@pytest.fixture(scope="module")
def found() -> Discovery:
    rng = np.random.default_rng(1)
    named = rng.normal(size=(NUM_PEOPLE, 1)) * np.array([1.0, 0.0, 0.0, 0.0])
    unnamed = 3.0 * signs(NUM_PEOPLE) * np.array([0.0, 0.0, -1.0, 1.0])
    return discover(POPULATION, crowd(named + unnamed), places(NUM_PEOPLE), CONFIG)


def test_a_taste_without_a_name_is_found(found: Discovery) -> None:
    first, *others = found.directions
    assert found.named == ("concise", "formal")
    assert (found.num_people, found.num_held_out) == (60, 20)
    assert first.is_sure
    assert first.gain > 0.1  # nats a judgement
    assert first.share > 0.6 > found.named_share
    raw = first.row / POPULATION.scale
    wanted = np.array([0.6, 0.0, -1.0, 1.0])  # what the third feature says of the first is left out
    assert abs(raw @ wanted) / np.linalg.norm(raw) / np.linalg.norm(wanted) > 0.95
    assert not any(one.is_sure for one in others)
    assert found.log_loss - found.log_loss_with_all == pytest.approx(sum(one.gain for one in found.directions))


def test_directions_say_nothing_of_the_named_ones_nor_of_each_other(found: Discovery) -> None:
    num = len(found.directions)
    np.testing.assert_allclose(found.response[-num:, -num:], np.eye(num), atol=1e-6)
    np.testing.assert_allclose(found.response[:2, -num:], 0.0, atol=1e-6)


def test_nothing_is_sure_where_names_say_everything() -> None:
    rng = np.random.default_rng(2)
    tastes = np.hstack([3.0 * rng.normal(size=(NUM_PEOPLE, 2)), np.zeros((NUM_PEOPLE, 2))])
    found = discover(POPULATION, crowd(tastes), places(NUM_PEOPLE), CONFIG)
    assert not any(one.is_sure for one in found.directions)
    assert found.named_share > 0.8


def test_differences_are_the_variance_between_answers_to_one_prompt() -> None:
    table = crowd(np.zeros((40, 4)))
    topics = np.random.default_rng(3).normal(size=(len(table.plus), 4)) * 100.0
    shifted = table.features.copy()
    shifted[table.plus] += topics
    shifted[table.minus] += topics  # what both answers share does not count
    expected = half_differences(table, POPULATION)
    np.testing.assert_allclose(half_differences(replace(table, features=shifted), POPULATION), expected, atol=1e-9)
    np.testing.assert_allclose(np.diagonal(expected) * POPULATION.scale**2, [1.0, 1.0, 1.36, 1.0], rtol=0.15)


def test_too_few_people_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="12 people to learn from and 4 held out"):
        discover(POPULATION, crowd(np.zeros((16, 4))), places(16), CONFIG)
