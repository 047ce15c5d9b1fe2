"""Small populations and posteriors with known numbers, made without the code that fits them."""

import numpy as np

from router.mixture import Mixture
from router.types import Array, Evidence, Population, Posterior


def make_population(seed: int = 0, *, K: int = 3, D: int = 4, spread: float = 1.0) -> Population:
    """A population with K distinct prototypes whose means average to zero, and names on half of the directions."""
    rng = np.random.default_rng(seed)
    means = spread * rng.normal(size=(K, D))
    root = rng.normal(size=(K, D, D)) / np.sqrt(D)
    covariances = root @ root.transpose(0, 2, 1) + 0.2 * np.eye(D)
    return Population(
        basis=np.eye(D),
        center=np.zeros(D),
        scale=np.ones(D),
        mixture_weights=np.full(K, 1.0 / K),
        means=means - means.mean(axis=0),
        covariances=0.5 * (covariances + covariances.transpose(0, 2, 1)),
        base_weights=np.zeros(D),
        attribute_names=tuple(f"a{d}" if d % 2 == 0 else "" for d in range(D)),
    )


def make_posterior(
    population: Population, means: Array, covariances: Array, weights: Array, *, num_events: int = 5
) -> Posterior:
    """A posterior with the given prototypes (K, D), (K, D, D), (K,), and an independent threshold."""
    K, D = means.shape
    precision = np.zeros((K, D + 1, D + 1))
    precision[:, :D, :D] = np.linalg.inv(covariances)
    precision[:, D, D] = 1.0
    latent = np.concatenate([means, np.zeros((K, 1))], axis=1)
    evidence = Evidence(
        designs=np.zeros((0, D + 1)),
        offsets=np.zeros(0),
        groups=np.zeros(0, np.int64),
        lows=np.zeros(0),
        highs=np.zeros(0),
        weights=np.zeros(0),
        num_outcomes=np.zeros(0),
        times_s=np.zeros(0),
        event_ids=(),
        targets=(),
    )
    with np.errstate(divide="ignore"):
        log_evidence = np.maximum(np.log(weights / population.mixture_weights), -700.0)
    return Posterior(
        precision=precision,
        shift=np.einsum("kij,kj->ki", precision, latent),
        log_evidence=log_evidence,
        log_mixture_weights=np.log(population.mixture_weights),
        evidence=evidence,
        folded_precision=np.zeros_like(precision),
        folded_shift=np.zeros((K, D + 1)),
        folded_log_evidence=np.zeros(K),
        folded_time_s=0.0,
        num_events=num_events,
        flip_rate=population.flip_rate,
        population_version=population.version,
    )


def narrowed(population: Population, target: Array, share: float, *, num_events: int = 5) -> Posterior:
    """A person with taste `target` (D,), known so well that `share` of the prior's variance is gone."""
    means = population.means + share * (target - population.means)
    return make_posterior(
        population,
        means,
        (1.0 - share) * population.covariances,
        population.mixture_weights,
        num_events=num_events,
    )


def laplace(prior: Mixture, differences: Array) -> Mixture:
    """The mixture after comparisons won by `differences` (M, D): per prototype its mode, curvature and evidence."""
    means, covariances, log_evidence = [], [], []
    for m, s in zip(prior.means, prior.covariances, strict=True):
        precision, w = np.linalg.inv(s), m.copy()
        for _ in range(30):
            p = 1.0 / (1.0 + np.exp(-differences @ w))
            hessian = precision + (differences * (p * (1.0 - p))[:, None]).T @ differences
            step = np.linalg.solve(hessian, precision @ (w - m) - differences.T @ (1.0 - p))
            w = w - step * min(1.0, 0.5 / max(float(np.abs(differences @ step).max()), 1e-12))  # short: no overshoot
        means.append(w)
        covariances.append(np.linalg.inv(hessian))
        fit = -np.logaddexp(0.0, -differences @ w).sum() - 0.5 * (w - m) @ precision @ (w - m)
        log_evidence.append(fit - 0.5 * np.linalg.slogdet(hessian @ s)[1])
    logits = np.array(log_evidence)
    return Mixture(prior.weights, np.stack(means), np.stack(covariances)).tilted(logits)
