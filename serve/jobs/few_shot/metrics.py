"""Accuracy, log-loss and calibration of probabilities, with intervals from resampling people, and texts.

Every probability is of the answer that was given, so a good one is near 1. Knows nothing of models.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
    return _interval(sums, counts, sums[draws].sum(axis=1) / counts[draws].sum(axis=1))


def person_and_text_interval(
    values: Sequence[Array], texts: Sequence[NDArray[np.int64]], seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean over all answers and its 95 % interval, resampling people and texts at once.

    All who are asked of unseen texts are asked of the same few: which these are is chance too. An answer counts as
    often as its person times its texts are drawn (pigeonhole bootstrap, Owen 2007, a little too wide).

    Args:
        values: One array a person.
        texts: The texts (M, 2) of each person's answers, -1 for none.
    """
    rng, people = np.random.default_rng(seed), len(values)
    _, numbers = np.unique(np.concatenate(texts), return_inverse=True)
    numbers = numbers.reshape(-1, 2)
    is_none = np.concatenate(texts) < 0
    owners = np.repeat(np.arange(people), [len(own) for own in values])
    flat, num_texts = np.concatenate(values), int(numbers.max()) + 1
    means = np.full(NUM_RESAMPLES, flat.mean())
    for draw in range(NUM_RESAMPLES):
        of_people = np.bincount(rng.integers(people, size=people), minlength=people)
        of_texts = np.bincount(rng.integers(num_texts, size=num_texts), minlength=num_texts)
        weights = of_people[owners] * np.where(is_none, 1, of_texts[numbers]).prod(axis=1)
        if weights.any():
            means[draw] = weights @ flat / weights.sum()
    return _interval(np.array([own.sum() for own in values]), np.array([len(own) for own in values]), means)


def _interval(sums: Array, counts: NDArray[np.int64], means: Array) -> tuple[float, float, float]:
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)
