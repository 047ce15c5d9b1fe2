"""Score candidates: (N, D) features under a person's posterior, with the uncertainty that the gate needs.

The reward of a candidate is w·φ; w is a mixture, so rewards are one too, and their moments are exact (law of total
variance). One batched call on the features' device, numpy or torch; what comes back is small and lives on the host.
Knows nothing of texts, engines, guards or the choice itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from router.mixture import Mixture, prob_above_zero

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rewards:
    """Joint rewards of one request's candidates, in logits of a comparison."""

    weights: Floats  # (K,)
    component_means: Floats  # (K, N)
    component_covs: Floats  # (K, N, N)

    @cached_property
    def mean(self) -> Floats:
        """Expected rewards (N,)."""
        return np.asarray(self.weights @ self.component_means)

    @cached_property
    def covariance(self) -> Floats:
        """Posterior covariance of the rewards (N, N)."""
        spread = self.component_means - self.mean
        within = np.tensordot(self.weights, self.component_covs, axes=1)
        return np.asarray(within + (spread * self.weights[:, None]).T @ spread)

    @cached_property
    def std(self) -> Floats:
        """Posterior standard deviations of the rewards (N,)."""
        return np.asarray(np.sqrt(np.maximum(np.diag(self.covariance), 0.0)))

    def prob_over(self, base: int, penalties: Floats | None = None) -> Floats:
        """P(reward − penalty above that of candidate `base` | posterior), (N,); exact for the mixture, .5 at `base`.

        Candidates with the base's own features count .5. Penalties (N,) are in logits, `inf` allowed.
        """
        if not 0 <= base < self.component_means.shape[1]:
            raise ValueError(f"base {base} is not one of the {self.component_means.shape[1]} candidates")
        gain = self.component_means - self.component_means[:, base, None]  # (K, N)
        if penalties is not None and np.isfinite(penalties[base]):
            gain = gain - (penalties - penalties[base])
        elif penalties is not None:  # the base is vetoed: anything that is not beats it
            gain = np.broadcast_to(np.where(np.isinf(penalties), 0.0, np.inf), gain.shape)
        own = np.diagonal(self.component_covs, axis1=1, axis2=2)  # (K, N)
        variance = own + own[:, base, None] - 2.0 * self.component_covs[:, :, base]
        std = np.sqrt(np.maximum(variance, 0.0))
        return np.asarray(self.weights @ prob_above_zero(gain, std))


def score(features: Floats | torch.Tensor, judge: Mixture) -> Rewards:
    """Score (N, D) features of one request's candidates under `judge`, the request's reward weights. Cost O(K·N·D²)."""
    return score_many(features[None], (judge,))[0]


def score_many(features: Floats | torch.Tensor, judges: Sequence[Mixture]) -> list[Rewards]:
    """Score (R, N, D) features of R requests in one call; every judge must have the same K. One transfer back."""
    if features.ndim != 3 or len(judges) != len(features) or len(features) == 0:
        raise ValueError(f"give features (R, N, D) and R judges, got {tuple(features.shape)} and {len(judges)}")
    if {judge.means.shape for judge in judges} != {(len(judges[0].weights), features.shape[2])}:
        raise ValueError(f"every judge must have the same K and the features' D = {features.shape[2]}")
    means = np.stack([judge.means for judge in judges])  # (R, K, D)
    covariances = np.stack([judge.covariances for judge in judges])  # (R, K, D, D)
    if isinstance(features, torch.Tensor):
        by_prototype, spread = _moments_torch(features, means, covariances)
    else:
        by_prototype, spread = _moments(np.asarray(features, np.float64), means, covariances)
    return [Rewards(judge.weights, m, c) for judge, m, c in zip(judges, by_prototype, spread, strict=True)]


def _moments(features: Floats, means: Floats, covariances: Floats) -> tuple[Floats, Floats]:
    transposed = features.swapaxes(1, 2)  # (R, D, N)
    spread = (features[:, None] @ covariances) @ transposed[:, None]  # (R, K, N, N)
    return means @ transposed, spread


def _moments_torch(features: torch.Tensor, means: Floats, covariances: Floats) -> tuple[Floats, Floats]:
    """Do the same on the features' device, in double precision, with one copy back for both results."""
    double = features.double()
    transposed = double.swapaxes(1, 2)  # (R, D, N)
    by_prototype = torch.from_numpy(means).to(double.device) @ transposed  # (R, K, N)
    spread = (double[:, None] @ torch.from_numpy(covariances).to(double.device)) @ transposed[:, None]  # (R, K, N, N)
    packed = torch.cat([by_prototype[..., None], spread], dim=-1).cpu().numpy()  # (R, K, N, 1 + N)
    return packed[..., 0], packed[..., 1:]
