"""Who is no evidence about people in general: closed forms against sampling, and groups by size and distance."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from router.feedback import binary_table
from router.outliers import WIDENING, log_chances, log_odds_of_none, odd_ones, trust_of_many
from router.types import Array

L = 2


def log_odds_at(distance: float, log_evidence: float = 0.0, log_chance: float = -100.0) -> float:
    """Log odds against somebody whose taste is known well, `distance` deviations from the one prototype N(0, I)."""
    off, doubts = np.array([[[distance, 0.0]]]), 0.01 * np.eye(L)[None, None]
    found = log_odds_of_none(np.eye(L)[None], off, doubts, np.array([[log_evidence]]), np.array([log_chance]))
    return float(found[0, 0])


def test_the_ratio_of_evidences_is_the_posterior_mean_of_densities() -> None:
    # Two prototypes, one person; brute-force quadrature over a plane.
    covariances = np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.4, -0.1], [-0.1, 0.3]]])
    doubts = np.linalg.inv(np.linalg.inv(covariances) + np.array([[2.0, 0.5], [0.5, 3.0]]))[None]  # (1, K, L, L)
    off = np.array([[[0.8, -0.5], [-0.3, 0.4]]])
    odds = log_odds_of_none(covariances, off, doubts, np.zeros((1, 2)), np.array([-np.inf]))
    axis, step = np.linspace(-8.0, 8.0, 401, retstep=True)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, L)
    for k in range(2):
        log_ratio = multivariate_normal.logpdf(points, np.zeros(L), WIDENING * covariances[k])
        log_ratio -= multivariate_normal.logpdf(points, np.zeros(L), covariances[k])
        believed = multivariate_normal.pdf(points, off[0, k], doubts[0, k])
        assert np.exp(odds[0, k]) == pytest.approx(0.5 * step**2 * (believed * np.exp(log_ratio)).sum(), rel=1e-6)


def test_the_odds_grow_with_the_distance() -> None:
    found = [log_odds_at(distance) for distance in (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)]
    assert found == sorted(found)
    assert found[2] < 0.0  # of a plane's Gaussian, one in seven lies beyond
    assert found[-1] > 8.0


def test_people_predicted_worse_than_by_a_coin_say_nothing() -> None:
    assert log_odds_at(0.0, log_evidence=-20.0, log_chance=-13.9) > 5.0
    assert log_odds_at(0.0, log_evidence=-10.0, log_chance=-13.9) < -1.0


def test_chance_counts_outcomes() -> None:
    table = binary_table(np.eye(2), np.array([0, 0, 1]), np.zeros(3, np.int64), np.ones(3, np.int64), np.zeros(3))
    np.testing.assert_allclose(log_chances(table.evidence_of(np.eye(2), np.zeros(2))), np.log([0.25, 0.5]))


def groups(sizes: tuple[int, ...], outside: Array) -> tuple[Array, Array]:
    """Log evidence and log trust of people who belong to one prototype each.

    `outside` (K, K): how far prototype j trusts the people of prototype i.
    """
    labels = np.repeat(np.arange(len(sizes)), sizes)
    is_own = labels[:, None] == np.arange(len(sizes))
    return np.where(is_own, 0.0, 20.0 * outside[labels] - 40.0), np.log(outside[labels])


def test_a_group_is_odd_if_it_is_small_and_far_from_all_others() -> None:
    apart, near = np.array([[1.0, 1e-6], [1e-6, 1.0]]), np.array([[1.0, 0.2], [0.9, 1.0]])
    for sizes, outside, num_odd in (
        ((950, 50), apart, 50),
        ((900, 100), apart, 0),  # a tenth keeps its prototype however far off
        ((950, 50), near, 0),
    ):
        trust = trust_of_many(*groups(sizes, outside))
        assert (trust < 0.5).sum() == num_odd
        assert (trust[: sizes[0]] > 0.99).all()


def test_small_groups_may_lead_to_smaller_ones_and_do_not_vouch_for_each_other() -> None:
    chain = np.array([[1.0, 0.1, 0.01], [0.9, 1.0, 0.1], [0.01, 0.9, 1.0]])  # each trusts the next one's people
    assert (trust_of_many(*groups((900, 50, 50), chain)) > 0.5).all()
    allies = np.array([[1.0, 1e-6, 1e-6], [1e-6, 1.0, 0.9], [1e-6, 0.9, 1.0]])
    assert (trust_of_many(*groups((950, 25, 25), allies)) < 0.5).sum() == 50
    assert (trust_of_many(*groups((900, 50, 50), allies)) > 0.5).all()  # two halves of a tenth are one taste


def test_where_all_groups_are_small_there_is_still_a_largest() -> None:
    trust = trust_of_many(*groups((60, *(50,) * 19), np.full((20, 20), 0.9)))
    assert (trust > 0.5).all()


def test_nobody_is_odd_where_hardly_anybody_or_many_are() -> None:
    for share, are_odd in ((0.02, False), (0.07, True), (0.12, False)):
        trust = np.ones(1_000)
        trust[: round(1_000 * share)] = 0.01
        assert odd_ones(trust, 50, 100).sum() == (round(1_000 * share) if are_odd else 0)
