import numpy as np
import pytest
from scipy.stats import norm

from router.mixture import Mixture, normal_cdf, prob_above_zero
from tests.router.cases import make_population


def mixture(seed: int = 0, K: int = 3, D: int = 4) -> Mixture:
    people = make_population(seed, K=K, D=D)
    weights = np.random.default_rng(seed).dirichlet(np.ones(K))
    return Mixture(weights, people.means, people.covariances)


def draws(taste: Mixture, num: int = 200_000) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rng = np.random.default_rng(1)
    k = rng.choice(len(taste.weights), size=num, p=taste.weights)
    noise = rng.standard_normal((num, len(taste.mean)))
    return np.asarray(taste.means[k] + np.einsum("sij,sj->si", taste.factors[k], noise))


def test_moments_against_monte_carlo() -> None:
    taste = mixture()
    sample = draws(taste)
    np.testing.assert_allclose(taste.mean, sample.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(taste.covariance, np.cov(sample.T), atol=0.05)


def test_factors_are_square_roots_even_of_a_singular_covariance() -> None:
    taste = mixture()
    np.testing.assert_allclose(taste.factors @ taste.factors.transpose(0, 2, 1), taste.covariances, atol=1e-12)
    flat = Mixture(np.ones(1), np.zeros((1, 2)), np.diag([1.0, 0.0])[None])
    np.testing.assert_allclose(flat.factors[0] @ flat.factors[0].T, np.diag([1.0, 0.0]), atol=1e-12)


def test_mixtures_made_of_one_share_its_square_roots() -> None:
    taste = mixture()
    logits = np.array([0.0, 1.0, 2.0])
    moved = taste.tilted(logits).affine(0.5, np.ones(4)).affine(-3.0, np.zeros(4))
    np.testing.assert_allclose(moved.factors @ moved.factors.transpose(0, 2, 1), moved.covariances, atol=1e-12)
    assert taste.tilted(logits).factors is taste.factors


def test_affine_and_tilted() -> None:
    taste = mixture()
    moved = taste.affine(0.5, np.ones(4))
    np.testing.assert_allclose(moved.mean, 0.5 * taste.mean + 1.0)
    np.testing.assert_allclose(moved.covariance, 0.25 * taste.covariance)
    np.testing.assert_allclose(taste.tilted(np.full(3, 700.0)).weights, taste.weights)
    assert taste.tilted(np.array([0.0, 50.0, 0.0])).weights[1] == pytest.approx(1.0)


def test_probabilities_and_quantiles_are_those_of_the_mixture() -> None:
    taste, direction = mixture(), np.array([1.0, -1.0, 0.5, 0.0])
    sample = draws(taste) @ direction
    assert taste.prob_positive(direction) == pytest.approx(float((sample > 0).mean()), abs=0.005)
    levels = np.array([0.05, 0.5, 0.95])
    np.testing.assert_allclose(taste.quantiles(direction, levels), np.quantile(sample, levels), atol=0.03)
    single = Mixture(np.ones(1), np.array([[2.0]]), np.array([[[9.0]]]))
    np.testing.assert_allclose(single.quantiles(np.ones(1), levels), norm(2.0, 3.0).ppf(levels), atol=1e-6)


def test_the_normal_cdf_is_exact_in_the_tails() -> None:
    z = np.array([[-30.0, -8.0, -1.0], [0.0, 1.0, 8.0]])
    np.testing.assert_allclose(normal_cdf(z), norm.cdf(z), rtol=1e-12)


def test_point_masses_count_by_sign() -> None:
    np.testing.assert_array_equal(prob_above_zero(np.array([1.0, 0.0, -1.0]), np.zeros(3)), [1.0, 0.5, 0.0])
    assert mixture().prob_positive(np.zeros(4)) == pytest.approx(0.5)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        Mixture(np.ones(1), np.zeros(2), np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="shapes"):
        Mixture(np.ones(2) / 2, np.zeros((1, 2)), np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="sum to 1"):
        Mixture(np.ones(2), np.zeros((2, 1)), np.zeros((2, 1, 1)))


def test_conditioning_holds_a_direction_and_what_goes_with_it() -> None:
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
    mixture = Mixture(np.array([0.3, 0.7]), np.array([[0.0, 0.0], [1.0, 1.0]]), np.stack([covariance] * 2))
    given = mixture.conditioned(np.array([[1.0, 0.0]]), np.array([2.0]))
    # Bishop eq. 2.81 and 2.82.
    np.testing.assert_allclose(given.means, [[2.0, 1.6], [2.0, 1.8]])
    np.testing.assert_allclose(given.covariances, np.stack([np.diag([0.0, 0.36])] * 2), atol=1e-12)
    np.testing.assert_array_equal(given.weights, mixture.weights)
    again = given.conditioned(np.array([[1.0, 0.0]]), np.array([5.0]))
    np.testing.assert_allclose(again.means, given.means, atol=1e-9)
