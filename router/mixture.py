"""A mixture of Gaussians over reward weights in moment form: what the request path reads of a person.

Responsibilities, means and covariances; overall moments are worked out at first use and kept, so that routing and
scoring invert nothing. Knows nothing of events, people or prompts: a posterior or a prior is turned into one.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SQRT_HALF = math.sqrt(0.5)


@dataclass(frozen=True, eq=False)
class Mixture:
    """w ~ Σ_k weights_k · N(means_k, covariances_k)."""

    weights: Floats  # (K,), on the simplex
    means: Floats  # (K, D)
    covariances: Floats  # (K, D, D), symmetric positive semi-definite
    # Whose covariances these are, up to the square of a scale: the square roots are then worked out once for both.
    origin: "tuple[Mixture, float] | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        num, size = self.means.shape if self.means.ndim == 2 else (0, 0)
        if num == 0 or self.weights.shape != (num,) or self.covariances.shape != (num, size, size):
            raise ValueError(
                "shapes must be weights (K,), means (K, D), covariances (K, D, D); "
                f"got {self.weights.shape}, {self.means.shape}, {self.covariances.shape}"
            )
        if self.weights.min() < 0.0 or abs(self.weights.sum() - 1.0) > 1e-6:
            raise ValueError("weights must be at least 0 and sum to 1; divide by their sum first")

    @cached_property
    def mean(self) -> Floats:
        """Overall mean (D,)."""
        return np.asarray(self.weights @ self.means)

    @cached_property
    def covariance(self) -> Floats:
        """Overall covariance (D, D): within prototypes plus between them."""
        centered = self.means - self.mean  # (K, D)
        within = np.tensordot(self.weights, self.covariances, axes=1)
        return np.asarray(within + (centered * self.weights[:, None]).T @ centered)

    @cached_property
    def factors(self) -> Floats:
        """Square roots L (K, D, D) of the covariances, L·Lᵀ = S. Cost O(K·D³), once for all made of one mixture."""
        if self.origin is not None:
            mixture, scale = self.origin
            return mixture.factors if scale == 1.0 else scale * mixture.factors
        try:
            return np.asarray(np.linalg.cholesky(self.covariances), dtype=np.float64)
        except np.linalg.LinAlgError:
            return self._singular_factors()

    def _singular_factors(self) -> Floats:
        values, vectors = np.linalg.eigh(self.covariances)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :])

    def affine(self, scale: float, offset: Floats) -> "Mixture":
        """Return the distribution of scale·w + offset, offset (D,)."""
        covariances = self.covariances if scale == 1.0 else scale**2 * self.covariances
        return Mixture(self.weights, scale * self.means + offset, covariances, self._origin_scaled(scale))

    def conditioned(self, directions: Floats, values: Floats) -> "Mixture":
        """Return the distribution given that w·direction is exactly `values` (J,) for each of `directions` (J, D).

        The weights of the components stay: what is given here is decided by somebody, it is no evidence. Components
        without doubt along a direction keep their mean there.
        """
        across = self.covariances @ directions.T  # (K, D, J)
        spread = directions @ across  # (K, J, J)
        gain = across @ np.linalg.pinv(spread, hermitian=True)  # (K, D, J)
        off = values - self.means @ directions.T  # (K, J)
        means = self.means + (gain @ off[:, :, None])[:, :, 0]
        covariances = self.covariances - gain @ across.transpose(0, 2, 1)
        # What rounding leaves of a weight that is held would still decide between equals.
        means = np.where(np.abs(means) < 1e-12 * np.abs(self.means).max(), 0.0, means)
        return Mixture(self.weights, means, 0.5 * (covariances + covariances.transpose(0, 2, 1)))

    def tilted(self, logits: Floats) -> "Mixture":
        """Return the mixture with `logits` (K,) added to its log weights, as prompt gating does."""
        tilted = self.weights * np.exp(logits - logits.max())
        return Mixture(tilted / tilted.sum(), self.means, self.covariances, self._origin_scaled(1.0))

    def _origin_scaled(self, scale: float) -> "tuple[Mixture, float]":
        mixture, so_far = self.origin or (self, 1.0)
        return mixture, so_far * scale

    def project(self, directions: Floats) -> tuple[Floats, Floats]:
        """Project w on each of `directions` (J, D): means and variances by prototype, (K, J) each."""
        variances = ((directions @ self.covariances) * directions).sum(axis=-1)
        return self.means @ directions.T, np.maximum(variances, 0.0)

    def prob_positive(self, direction: Floats) -> float:
        """P(w·direction > 0), exact for the mixture; .5 for a zero direction (D,)."""
        means, variances = self.project(direction[None])
        return float(self.weights @ prob_above_zero(means[:, 0], np.sqrt(variances[:, 0])))

    def quantiles(self, direction: Floats, levels: Floats) -> Floats:
        """Quantiles of w·direction at `levels` in (0, 1), by bisection on the exact CDF to a relative 1e-9."""
        means, variances = self.project(direction[None])
        mean, std = means[:, 0, None], np.sqrt(variances[:, 0, None])  # (K, 1)
        reach = 10.0 * std.max() + 1e-12  # Φ(-10) < 1e-23: beyond it there is nothing
        low = np.full(levels.shape, mean.min() - reach)
        high = np.full(levels.shape, mean.max() + reach)
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = self.weights @ prob_above_zero(middle - mean, np.broadcast_to(std, (len(std), len(levels))))
            low, high = np.where(below < levels, middle, low), np.where(below < levels, high, middle)
        return np.asarray(0.5 * (low + high))


def normal_cdf(z: Floats) -> Floats:
    """Evaluate Φ elementwise to double precision; about 0.1 µs an element."""
    values = [0.5 * math.erfc(-_SQRT_HALF * x) for x in z.ravel().tolist()]
    return np.array(values).reshape(z.shape)


def prob_above_zero(mean: Floats, std: Floats) -> Floats:
    """P(N(mean, std²) > 0) elementwise; a point mass counts 1, .5 or 0 by the sign of its mean."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(std > 0.0, mean / std, np.where(mean == 0.0, 0.0, np.copysign(np.inf, mean)))
    return normal_cdf(z)
