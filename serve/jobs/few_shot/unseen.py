"""What a text nobody has judged would be: its rewards and its place among tastes, foretold from its features.

Kernel ridge regression (a Gaussian process' mean) of what judged texts turned out to be, on how near texts are in their
features; width and strength are those of the smallest leave-one-out error, for each value. The joint fit of rewards has
one strength for everything, and foretells worse; so do straight lines. Knows nothing of people or models.
"""

import numpy as np

from router.types import Array
from serve.jobs.few_shot.data import Index
from serve.jobs.few_shot.features import Inputs

STRENGTHS = np.geomspace(1e-4, 30.0, 20)  # of the ridge
WIDTHS = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)  # of the kernel, in inverse mean squared distances of judged texts
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
    squares = (features**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[judged] - 2.0 * features @ features[judged].T, 0.0)  # (n, m)
    distances /= max(float(distances[judged].mean()), 1e-12)
    mean = weights @ targets / len(judged)
    root = np.sqrt(weights)[:, None]
    wanted = root * (targets - mean)
    predicted, best = np.tile(mean, (len(features), 1)), np.full(targets.shape[1], np.inf)
    for width in WIDTHS:
        kernel = np.exp(-width * distances)  # (n, m)
        values, vectors = np.linalg.eigh(root * kernel[judged] * root.T)
        along = vectors.T @ wanted
        for strength in STRENGTHS:
            shrunk = 1.0 / (np.maximum(values, 0.0) + strength)
            slopes = vectors @ (shrunk[:, None] * along)  # (m, V)
            misses = slopes / (vectors**2 @ shrunk)[:, None]  # of each judged text, foretold by the others
            errors = (misses**2).sum(axis=0)
            predicted = np.where(errors < best, kernel @ (root * slopes) + mean, predicted)
            best = np.minimum(errors, best)
    return predicted
