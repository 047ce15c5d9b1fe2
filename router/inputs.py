"""Standardised features as a linear operator, so that no second copy of a large table is ever made.

Multiplies block by block, in the features' own precision, and adds up in double. Knows nothing of what the features
are of, nor what is fitted to them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.types import Array

Features = NDArray[np.floating[Any]]  # float32 or float64
BLOCK = 16_384  # rows at a time


@dataclass(frozen=True, eq=False)
class Inputs:
    """The matrix `(features - center) * scales`, (n, P); it multiplies from either side with `@`."""

    features: Features  # (n, P)
    center: Array  # (P,)
    scales: Array  # (P,)

    __array_ufunc__ = None  # an array on the left leaves the product to this class

    @property
    def shape(self) -> tuple[int, int]:
        """(n, P)."""
        return self.features.shape[0], self.features.shape[1]

    def __matmul__(self, weights: Array) -> Features:
        """Multiply with `weights` (P,) or (P, r); the product has the features' precision."""
        scaled = weights.T * self.scales  # ([r,] P)
        shift = scaled @ self.center
        product = np.empty((len(self.features), *weights.shape[1:]), self.features.dtype)
        for rows in blocks(len(product)):
            product[rows] = self.features[rows] @ scaled.T.astype(product.dtype) - shift
        return product

    def __rmatmul__(self, weights: Array) -> Array:
        """Multiply `weights` (n,) or (r, n) with the matrix."""
        total = np.zeros((*weights.shape[:-1], self.shape[1]))
        for rows in blocks(len(self.features)):
            total += weights[..., rows].astype(self.features.dtype) @ self.features[rows]
        return np.asarray((total - np.multiply.outer(weights.sum(axis=-1), self.center)) * self.scales)

    def mean_square_norm(self) -> float:
        """Return the mean over rows of the squared length."""
        squares = 0.0
        for rows in blocks(len(self.features)):
            squares += float((((self.features[rows] - self.center) * self.scales) ** 2).sum())
        return squares / max(1, len(self.features))


def covariance(rows: Features) -> Array:
    """Return the covariance (D, D) of rows (n, D), added up in double precision without a copy."""
    n, D = rows.shape
    mean = np.asarray(rows.mean(axis=0, dtype=np.float64))
    total = np.zeros((D, D))
    for block in blocks(n):
        centred = rows[block] - mean
        total += centred.T @ centred
    return np.asarray(total / (n - 1))


def is_finite(features: Features) -> bool:
    """Whether every number is finite."""
    return all(np.isfinite(features[rows]).all() for rows in blocks(len(features)))


def blocks(num_rows: int) -> Iterator[slice]:
    """Yield slices of at most `BLOCK` rows."""
    return (slice(start, start + BLOCK) for start in range(0, num_rows, BLOCK))
