"""A named direction changes what is known, not what was believed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serve.errors import ConfigurationError
from serve.jobs.steering.naming import Found, with_name
from tests.serve.jobs.fit.cases import PARENT

POPULATION = replace(
    PARENT.population,
    base_weights=np.array([0.1, 0.0, 0.0]),  # the last row is a taste, not the shared reward
    threshold_covariances=np.array([[0.1, 0.0, 0.2], [0.0, 0.1, 0.1]]),
)
ARTIFACT = replace(PARENT, population=POPULATION, instructions=("Be brief.",), instruction_effects=np.ones((1, 3)))
ROW = np.array([0.0, 0.0, 1.0, -0.2])
TEXTS = np.random.default_rng(0).normal(size=(200, 4))


def found(variance: float = 4.0) -> Found:
    rows = np.vstack([POPULATION.basis, ROW])
    response = rows @ np.cov(TEXTS, rowvar=False) @ rows.T
    return Found(ROW, response, variance, ARTIFACT.feature_space.id)


def test_the_new_attribute_follows_the_named_ones() -> None:
    named = with_name(ARTIFACT, found(), "plain")
    population = named.population
    assert population.attribute_names == ("concise", "formal", "plain", "")
    np.testing.assert_array_equal(population.basis[:2], POPULATION.basis[:2])
    np.testing.assert_array_equal(population.basis[2], ROW)
    phi = (TEXTS @ population.basis.T).T
    np.testing.assert_allclose(named.response, np.cov(phi), atol=1e-9)
    assert abs(named.response[2, 3]) < 1e-9  # the unnamed row has given up what it said of it
    assert named.instruction_effects is not None
    np.testing.assert_array_equal(named.instruction_effects, [[1.0, 1.0, 0.0, 1.0]])
    assert named.attribute_directions["plain"].shape == (4,)


def test_what_was_believed_of_texts_stays_and_what_was_found_is_added() -> None:
    before, after = POPULATION, with_name(ARTIFACT, found(), "plain").population
    np.testing.assert_allclose(after.base_weights @ after.basis, before.base_weights @ before.basis, atol=1e-12)
    added = []
    for k in range(2):
        np.testing.assert_allclose(after.means[k] @ after.basis, before.means[k] @ before.basis, atol=1e-12)
        old = before.basis.T @ before.covariances[k] @ before.basis
        new = after.basis.T @ after.covariances[k] @ after.basis
        added.append((new - old)[2, 2])
        np.testing.assert_allclose(new - old, added[-1] * np.outer(ROW, ROW), atol=1e-9)
    assert added[0] == pytest.approx(added[1])
    assert after.mixture_weights @ after.covariances[:, 2, 2] == pytest.approx(4.0)  # as the discovery found


def test_a_direction_that_was_known_adds_next_to_nothing() -> None:
    population = with_name(ARTIFACT, found(variance=0.0), "plain").population
    old = POPULATION.basis.T @ POPULATION.covariances[0] @ POPULATION.basis
    new = population.basis.T @ population.covariances[0] @ population.basis
    np.testing.assert_allclose(new, old, atol=1e-5)


def test_the_shared_rewards_row_keeps_what_it_says() -> None:
    population = with_name(PARENT, replace(found(), feature_space=PARENT.feature_space.id), "plain").population
    np.testing.assert_array_equal(population.basis[-1], PARENT.population.basis[-1])
    np.testing.assert_array_equal(population.base_weights, [0.1, 0.0, 0.0, -0.2])


@pytest.mark.parametrize("name", ["concise", " ", ""])
def test_a_name_that_is_taken_or_empty_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name: there are concise, formal"):
        with_name(ARTIFACT, found(), name)


def test_a_direction_of_another_version_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="was not found with a1"):
        with_name(ARTIFACT, replace(found(), feature_space="another"), "plain")
