import numpy as np
import pytest

from router.laplace import Factor, fit_mode, gaussian, log_determinant, site
from router.likelihood import concatenate, encode, log_likelihood
from router.types import Array, Evidence
from tests.router.worlds import mixed_events, small_population

# Two latent dimensions (one taste and the threshold), so that a grid gives the truth.
PEOPLE = small_population(1, 2)
GRID = np.stack(np.meshgrid(np.linspace(-12, 12, 481), np.linspace(-12, 12, 481), indexing="ij"), axis=-1).reshape(
    -1, 2
)
CELL = (24 / 480) ** 2


def evidence_of(count: int) -> Evidence:
    return concatenate([encode(PEOPLE, event) for event in mixed_events(1, count, seed=3)])


def quadrature(evidence: Evidence, prototype: int) -> tuple[float, Array, Array]:
    """Log evidence, mean and covariance by brute force."""
    mean, covariance = PEOPLE.prior_means[prototype], PEOPLE.prior_covariances[prototype]
    gaps = GRID - mean
    log_prior = -0.5 * np.einsum("gi,ij,gj->g", gaps, np.linalg.inv(covariance), gaps)
    log_prior -= 0.5 * np.log(np.linalg.det(2 * np.pi * covariance))
    log_joint = log_prior + log_likelihood(evidence, GRID, 0.0) @ evidence.weights
    joint = np.exp(log_joint) * CELL
    total = joint.sum()
    center = joint @ GRID / total
    return float(np.log(total)), center, np.einsum("g,gi,gj->ij", joint / total, GRID - center, GRID - center)


@pytest.mark.parametrize("count", [0, 1, 4, 16])
def test_mode_and_evidence_match_quadrature(count: int) -> None:
    evidence = evidence_of(max(count, 1))
    weights = evidence.weights * (count > 0)
    factor = gaussian(PEOPLE.prior_means, PEOPLE.prior_covariances)
    mode = fit_mode(evidence, weights, 0.0, factor, PEOPLE.prior_means)
    covariances = np.linalg.inv(mode.precision)
    if count == 0:
        np.testing.assert_allclose(mode.log_evidence, 0.0, atol=1e-10)  # a normalised prior integrates to one
        return
    for k in range(2):
        log_evidence, mean, covariance = quadrature(evidence, k)
        assert mode.log_evidence[k] == pytest.approx(log_evidence, abs=0.06)
        deviations = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose((mode.means[k] - mean) / deviations, 0.0, atol=0.2)
        np.testing.assert_allclose(np.sqrt(np.diag(covariances[k])) / deviations, 1.0, atol=0.08)


def test_newton_survives_a_distant_start_and_flips() -> None:
    evidence = evidence_of(16)
    factor = gaussian(PEOPLE.prior_means, PEOPLE.prior_covariances)
    near = fit_mode(evidence, evidence.weights, 0.05, factor, PEOPLE.prior_means)
    far = fit_mode(evidence, evidence.weights, 0.05, factor, PEOPLE.prior_means + 40.0)
    np.testing.assert_allclose(near.means, far.means, atol=1e-3)
    np.testing.assert_allclose(near.log_evidence, far.log_evidence, atol=1e-3)


def test_site_at_the_mode_replaces_the_likelihood() -> None:
    evidence = evidence_of(8)
    factor = gaussian(PEOPLE.prior_means, PEOPLE.prior_covariances)
    mode = fit_mode(evidence, evidence.weights, 0.0, factor, PEOPLE.prior_means)
    joined = factor + site(evidence, evidence.weights, 0.0, mode.means)
    means = np.linalg.solve(joined.precision, joined.shift[:, :, None])[:, :, 0]
    np.testing.assert_allclose(means, mode.means, atol=1e-3)
    np.testing.assert_allclose(joined.precision, mode.precision)
    log_total = joined.constant + 0.5 * (np.sum(joined.shift * means, axis=1) - log_determinant(joined.precision))
    np.testing.assert_allclose(log_total + np.log(2 * np.pi), mode.log_evidence, atol=1e-5)


def test_factors_add() -> None:
    one = Factor(np.eye(1)[None], np.ones((1, 1)), np.zeros(1))
    assert (one + one).precision.item() == 2.0
