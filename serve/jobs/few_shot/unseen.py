"""What a text nobody has judged would be: its rewards and its place among tastes, foretold from its features.

Ridge regression of what judged texts turned out to be on their features, its strength that of the smallest
leave-one-out error. The joint fit of rewards has one strength for everything, and foretells worse.
Knows nothing of people or models.
"""

import numpy as np

from router.types import Array
from serve.jobs.few_shot.data import Index
from serve.jobs.few_shot.features import Inputs

STRENGTHS = np.geomspace(1e-4, 10.0, 24)  # of the ridge, per text
HALF_SURE = 10.0  # labels with which a text's own value counts half of what it can


def foretell(inputs: Inputs, rows: Index, values: Array) -> Array:
    """Return values (n + 1, V) of n texts and the reference, those of texts without a label in `rows` foretold.

    What `values` (n + 1, V) say of unseen texts is not used; `rows` (M, 3) are the training labels.
    """
    n = len(values) - 1
    named = rows[:, :2].ravel()
    counts = np.bincount(named[named >= 0], minlength=n)[:n]
    judged = np.flatnonzero(inputs.is_seen[:n] & (counts > 0))
    weights = counts[judged] / (counts[judged] + HALF_SURE)
    foretold = values.copy()
    foretold[:n] = _regress(inputs.foretelling[:n], values[judged], judged, weights / weights.mean())
    foretold[judged] = values[judged]
    return foretold


def _regress(features: Array, targets: Array, judged: Index, weights: Array) -> Array:
    """Return predictions (n, V) from features (n, P), learned from targets (m, V) of the judged texts."""
    m = len(judged)
    centre, mean = weights @ features[judged] / m, weights @ targets / m
    root = np.sqrt(weights)[:, None]
    U, s, V = np.linalg.svd(root * (features[judged] - centre), full_matrices=False)
    wanted = root * (targets - mean)
    along = U.T @ wanted
    predicted, best = np.tile(mean, (len(features), 1)), np.full(targets.shape[1], np.inf)
    for strength in STRENGTHS:
        kept = s**2 / (s**2 + strength * m)
        leverage = U**2 @ kept + weights / m  # of each judged text on its own prediction
        misses = (wanted - U @ (kept[:, None] * along)) / (1.0 - leverage)[:, None]
        errors = (misses**2).sum(axis=0)
        slopes = V.T @ ((s / (s**2 + strength * m))[:, None] * along)
        predicted = np.where(errors < best, (features - centre) @ slopes + mean, predicted)
        best = np.minimum(errors, best)
    return predicted
