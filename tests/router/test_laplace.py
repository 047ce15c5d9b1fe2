from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from router.laplace import Factor, fit_mode, gaussian, log_determinant, normalised, site
from router.likelihood import concatenate, encode, evaluate, log_likelihood
from router.types import Array, Comparison, Evidence
from tests.router.cases import make_population
from tests.router.chances import KINDS, outcomes

POPULATION = make_population(K=1, D=1)
MEANS = np.array([[0.5, -0.3], [-1.0, 0.2]])
COVARIANCES = np.array([[[1.0, 0.4], [0.4, 0.8]], [[0.5, 0.0], [0.0, 2.0]]])
AXIS = np.linspace(-10.0, 10.0, 201)
GRID = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), axis=-1).reshape(-1, 2)
CELL = (AXIS[1] - AXIS[0]) ** 2


def some_evidence() -> tuple[Evidence, Array]:
    rng = np.random.default_rng(0)
    events = [outcomes(kind, *rng.normal(size=(3, 1)))[i % 2] for i, kind in enumerate((*KINDS, *KINDS))]
    evidence = concatenate([encode(POPULATION, event) for event in events])
    return evidence, rng.uniform(0.3, 1.0, evidence.num_groups)


def log_density(factor: Factor, k: int, points: Array) -> Array:
    bent = np.einsum("ni,ij,nj->n", points, factor.precision[k], points)
    return np.asarray(factor.constant[k] + points @ factor.shift[k] - 0.5 * bent)


def test_gaussians_integrate_to_one_and_have_their_moments() -> None:
    factor = gaussian(MEANS, COVARIANCES)
    for k in range(2):
        density = np.exp(log_density(factor, k, GRID)) * CELL
        assert density.sum() == pytest.approx(1.0, abs=1e-6)
        np.testing.assert_allclose(density @ GRID, MEANS[k], atol=1e-6)
        np.testing.assert_allclose(
            (density[:, None] * (GRID - MEANS[k])).T @ (GRID - MEANS[k]), COVARIANCES[k], atol=1e-5
        )


def test_factors_add_as_densities_multiply() -> None:
    one, two = gaussian(MEANS, COVARIANCES), gaussian(MEANS[::-1], COVARIANCES)
    np.testing.assert_allclose(
        log_density(one + two, 1, GRID[::500]), log_density(one, 1, GRID[::500]) + log_density(two, 1, GRID[::500])
    )
    again = normalised(one.precision, one.shift, MEANS, np.linalg.slogdet(one.precision)[1])
    np.testing.assert_allclose(again.constant, one.constant)


@pytest.mark.parametrize("flip_rate", [0.0, 0.15])
def test_mode_against_a_general_optimiser(flip_rate: float) -> None:
    evidence, weights = some_evidence()
    factor = gaussian(MEANS, COVARIANCES)
    mode = fit_mode(evidence, weights, flip_rate, factor, np.array([[5.0, 5.0], [-5.0, 5.0]]))
    for k in range(2):

        def negative(latent: Array, k: int = k) -> float:
            likelihood = log_likelihood(evidence, latent[None], flip_rate)[0] @ weights
            return -float(likelihood + log_density(factor, k, latent[None])[0])

        best = minimize(negative, MEANS[k], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}).x
        np.testing.assert_allclose(mode.means[k], best, atol=1e-3)


@pytest.mark.parametrize(("flip_rate", "tolerance"), [(0.0, 0.06), (0.1, 0.15), (0.2, 0.15), (0.3, 0.15)])
def test_log_evidence_against_quadrature(flip_rate: float, tolerance: float) -> None:
    # Nine observations of every kind leave the posterior far from Gaussian: this is the Laplace error at its largest.
    # With the clipped curvature in place of the true one it would be .20 to .30 nats at every flip rate above zero.
    evidence, weights = some_evidence()
    factor = gaussian(MEANS, COVARIANCES)
    mode = fit_mode(evidence, weights, flip_rate, factor, MEANS)
    log_p = log_likelihood(evidence, GRID, flip_rate) @ weights
    for k in range(2):
        exact = np.log(np.sum(np.exp(log_p + log_density(factor, k, GRID))) * CELL)
        assert mode.log_evidence[k] == pytest.approx(exact, abs=tolerance)


def test_evidence_does_not_favour_the_flip_rate_whose_curvature_is_simpler() -> None:
    # 40 people of known taste scale: the flip rate that made their labels must win by Laplace as it does by quadrature.
    rng = np.random.default_rng(0)
    factor = gaussian(np.zeros((1, 2)), np.diag([4.0, 1.0])[None])
    prior = np.exp(log_density(factor, 0, GRID)) * CELL
    laplace_total, exact_total = np.zeros(2), np.zeros(2)
    for _ in range(40):
        xs, taste = rng.normal(size=15), 2.0 * rng.normal()
        kept = (rng.random(15) < 1 / (1 + np.exp(-taste * xs))) ^ (rng.random(15) < 0.2)
        signs = np.where(kept, 1.0, -1.0)
        pairs = [
            Comparison(event_id=str(i), chosen=np.array([x]), rejected=np.zeros(1)) for i, x in enumerate(signs * xs)
        ]
        evidence = concatenate([encode(POPULATION, pair) for pair in pairs])
        for index, rate in enumerate((0.0, 0.2)):
            laplace_total[index] += fit_mode(evidence, np.ones(15), rate, factor, np.zeros((1, 2))).log_evidence[0]
            log_p = log_likelihood(evidence, GRID[100::201], rate).sum(axis=1)
            exact_total[index] += np.log(np.exp(log_p) @ prior.reshape(201, 201).sum(axis=1))
    assert np.diff(exact_total)[0] > 0.0
    assert np.diff(laplace_total)[0] == pytest.approx(np.diff(exact_total)[0], abs=4.0)


def test_log_evidence_without_events_is_zero() -> None:
    evidence, _ = some_evidence()
    mode = fit_mode(evidence, np.zeros(evidence.num_groups), 0.1, gaussian(MEANS, COVARIANCES), MEANS + 3.0)
    np.testing.assert_allclose(mode.means, MEANS, atol=1e-9)
    np.testing.assert_allclose(mode.log_evidence, 0.0, atol=1e-9)


def test_a_start_from_which_newton_overshoots_still_arrives() -> None:
    evidence = encode(POPULATION, Comparison(event_id="e", chosen=np.array([30.0]), rejected=np.zeros(1)))
    factor = gaussian(np.zeros((1, 2)), 100.0 * np.eye(2)[None])
    modes = [fit_mode(evidence, np.ones(1), 0.0, factor, np.array([[w, 0.0]])).means for w in (-20.0, 0.0, 20.0)]
    gradient = evaluate(evidence, modes[0], np.ones(1), 0.0).gradient @ evidence.designs - modes[0] / 100.0
    np.testing.assert_allclose(gradient, 0.0, atol=1e-3)
    np.testing.assert_allclose(modes[0], modes[1], atol=2e-3)
    np.testing.assert_allclose(modes[2], modes[1], atol=2e-3)


def test_a_site_touches_the_likelihood_to_second_order() -> None:
    evidence, weights = some_evidence()
    at = np.array([[0.4, -0.1]])
    factor = site(evidence, weights, 0.0, at)
    errors = []
    for size in (0.2, 0.1, 0.05):
        points = at + size * np.array([[1.0, 0.0], [0.0, 1.0], [0.7, -0.7]])
        exact = log_likelihood(evidence, points, 0.0) @ weights
        errors.append(np.abs(log_density(factor, 0, points) - exact).max())
    assert errors[0] < 5e-3
    assert errors[1] < errors[0] / 6  # third order: an eighth at half the distance
    assert errors[2] < errors[1] / 6


def test_log_determinant() -> None:
    np.testing.assert_allclose(log_determinant(COVARIANCES), np.log([0.64, 1.0]), atol=1e-12)


def test_a_saddle_has_the_evidence_of_the_clipped_curvature() -> None:
    # Two surprises that pull equally hard in opposite directions: the gradient vanishes where the density is hollow.
    rows = [np.array([4.0]), np.array([-4.0])]
    events = [Comparison(event_id=str(i), chosen=row, rejected=np.zeros(1)) for i, row in enumerate(rows)]
    evidence = replace(concatenate([encode(POPULATION, event) for event in events]), offsets=np.full(2, -3.0))
    factor = gaussian(np.zeros((1, 2)), np.diag([50.0, 1.0])[None])
    mode = fit_mode(evidence, np.ones(2), 0.2, factor, np.zeros((1, 2)))
    np.testing.assert_array_equal(mode.means, 0.0)
    height = log_likelihood(evidence, np.zeros((1, 2)), 0.2).sum() + log_density(factor, 0, np.zeros((1, 2)))[0]
    volume = 0.5 * (2 * np.log(2 * np.pi) - np.linalg.slogdet(mode.precision[0])[1])
    assert mode.log_evidence[0] == pytest.approx(height + volume)
