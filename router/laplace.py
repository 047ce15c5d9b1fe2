"""Laplace posteriors of K Gaussian priors under one person's evidence, all prototypes in one batch.

Newton steps on the log posterior with curvature clipped at zero, halved where they do not improve
(MacKay 2003, ch. 27).
A factor is held in natural parameters, so factors add. Knows nothing of events, people or populations.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from router.likelihood import Terms, evaluate
from router.types import Array, Evidence

MAX_STEPS = 50
MAX_HALVINGS = 20
# Mahalanobis lengths: a step below LAST_STEP is the last (Newton's error squares), one below NO_STEP is not taken.
LAST_STEP = 3e-3
NO_STEP = 1e-8


Look = Callable[[Array], tuple[Array, Terms, Array]]  # latents -> themselves, likelihood terms, log joint


class Factor(NamedTuple):
    """K unnormalised Gaussians: `exp(constant + shift·w - ½ w·precision·w)`."""

    precision: Array  # (K, L, L)
    shift: Array  # (K, L)
    constant: Array  # (K,)

    def __add__(self, other: "Factor") -> "Factor":  # type: ignore[override]  # factors add; tuples of them never join
        """Multiply the densities: natural parameters add."""
        return Factor(self.precision + other.precision, self.shift + other.shift, self.constant + other.constant)


class Mode(NamedTuple):
    """Laplace approximation at the mode."""

    means: Array  # (K, L)
    precision: Array  # (K, L, L)
    log_evidence: Array  # (K,)


def gaussian(means: Array, covariances: Array) -> Factor:
    """Return normalised Gaussians N(means (K, L), covariances (K, L, L)) as a factor."""
    precision = np.linalg.inv(covariances)
    precision = 0.5 * (precision + precision.transpose(0, 2, 1))
    return normalised(precision, (precision @ means[:, :, None])[:, :, 0], means, log_determinant(precision))


def normalised(precision: Array, shift: Array, means: Array, log_determinants: Array) -> Factor:
    """Return Gaussians of known natural parameters, `means` and log det precision as a factor integrating to one."""
    constant = 0.5 * (log_determinants - np.sum(means * shift, axis=1) - means.shape[1] * np.log(2 * np.pi))
    return Factor(precision, shift, constant)


def fit_mode(evidence: Evidence, weights: Array, flip_rate: float, prior: Factor, start: Array) -> Mode:
    """Find the mode of `prior` times the weighted likelihood from `start` (K, L).

    Cost per Newton step O(K·(R·L² + L³)); a warm start needs two or three steps.
    """

    def look(latents: Array) -> tuple[Array, Terms, Array]:
        terms = evaluate(evidence, latents, weights, flip_rate)
        return latents, terms, _objective(prior, latents, terms, weights)

    latents, terms, objective = look(np.array(start, dtype=np.float64))
    precision = prior.precision + _information(evidence, terms.curvature, terms.between)
    for _ in range(MAX_STEPS):
        gradient = prior.shift - (prior.precision @ latents[:, :, None])[:, :, 0] + terms.gradient @ evidence.designs
        step = np.asarray(np.linalg.solve(precision, gradient[:, :, None])[:, :, 0], dtype=np.float64)
        length = float(np.sum(step * gradient, axis=1).max())
        if length < NO_STEP**2:
            break
        latents, terms, objective = _advance(look, latents, objective, step)
        precision = prior.precision + _information(evidence, terms.curvature, terms.between)
        if length < LAST_STEP**2:
            break
    # Steps need a positive curvature; the evidence needs the true one, or flips count as less likely than they are.
    exact = prior.precision + _information(evidence, terms.exact, terms.exact_between)
    log_evidence = objective + 0.5 * (latents.shape[1] * np.log(2 * np.pi) - log_sharpness(exact, precision))
    return Mode(latents, precision, log_evidence)


def site(evidence: Evidence, weights: Array, flip_rate: float, latents: Array) -> Factor:
    """Return the weighted likelihood as a Gaussian factor: its second-order expansion at `latents` (K, L)."""
    terms = evaluate(evidence, latents, weights, flip_rate)
    precision = _information(evidence, terms.curvature, terms.between)
    gradient = terms.gradient @ evidence.designs
    product = (precision @ latents[:, :, None])[:, :, 0]
    constant = terms.values @ weights - np.sum(latents * (gradient + 0.5 * product), axis=1)
    return Factor(precision, gradient + product, constant)


def _advance(look: Look, latents: Array, objective: Array, step: Array) -> tuple[Array, Terms, Array]:
    """Take the Newton step, halved per prototype until the objective does not fall."""
    size = np.ones((latents.shape[0], 1))
    for _ in range(MAX_HALVINGS):
        reached = look(latents + size * step)
        worse = reached[2] < objective - 1e-9 * np.abs(objective) - 1e-12
        if not worse.any():
            break
        size = np.where(worse[:, None], 0.5 * size, size)
    return reached


def log_sharpness(exact: Array, clipped: Array) -> Array:
    """Return log det of `exact` (K, L, L), or of `clipped` where the mode is so flat that `exact` has none."""
    try:
        return log_determinant(exact)
    except np.linalg.LinAlgError:
        values = np.linalg.eigvalsh(exact)
        peaked = values[:, 0] > 1e-9 * values[:, -1]
        return log_determinant(np.where(peaked[:, None, None], exact, clipped))


def _objective(prior: Factor, latents: Array, terms: Terms, weights: Array) -> Array:
    quadratic = 0.5 * (prior.precision @ latents[:, :, None])[:, :, 0]
    return np.asarray(prior.constant + np.sum(latents * (prior.shift - quadratic), axis=1) + terms.values @ weights)


def _information(evidence: Evidence, curvature: Array, between: Array | None) -> Array:
    designs = evidence.designs
    information = designs.T @ (curvature[:, :, None] * designs)  # (K, L, L)
    if between is not None:
        starts = np.searchsorted(evidence.groups, np.arange(evidence.num_groups))
        sums = np.add.reduceat(between[:, :, None] * designs, starts, axis=1)  # (K, G, L)
        information = information - sums.transpose(0, 2, 1) @ sums
    return np.asarray(information)


def log_determinant(precision: Array) -> Array:
    """Return log det of positive definite matrices (..., L, L)."""
    factors = np.linalg.cholesky(precision)
    return np.asarray(2.0 * np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum(axis=-1))
