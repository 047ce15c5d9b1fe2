"""Accuracy, log-loss and calibration of probabilities, with intervals from resampling people.

Every probability is of the answer that was given, so a good one is near 1. Knows nothing of models.
"""

from collections.abc import Sequence

import numpy as np

from router.types import Array

NUM_RESAMPLES = 1000
SMALLEST = 1e-6


def hits(probabilities: Array) -> Array:
    """Return 1 where the given answer was the likelier one, 0.5 at a tie."""
    return np.asarray(0.5 * (probabilities > 0.5) + 0.5 * (probabilities >= 0.5))


def losses(probabilities: Array) -> Array:
    """Return the negative log-likelihoods in nats."""
    return np.asarray(-np.log(np.clip(probabilities, SMALLEST, 1.0)))


def calibration_error(probabilities: Array) -> float:
    """Return the expected calibration error over ten bins of confidence in the likelier answer."""
    confidence = np.maximum(probabilities, 1.0 - probabilities)
    bins = np.minimum(((confidence - 0.5) * 20).astype(int), 9)
    gaps = np.bincount(bins, hits(probabilities) - confidence, minlength=10)
    return float(np.abs(gaps).sum() / len(probabilities))


def person_interval(values: Sequence[Array], seed: int = 0) -> tuple[float, float, float]:
    """Return the mean over all answers and its 95 % interval, resampling people (one array each)."""
    sums = np.array([person.sum() for person in values])
    counts = np.array([len(person) for person in values])
    draws = np.random.default_rng(seed).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)
