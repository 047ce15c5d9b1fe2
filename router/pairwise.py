"""A preference head over pairs for intransitive populations, and the minimax winner among candidates.

Where most people prefer a to b, b to c and c to a, no reward fits. The head adds a skew-symmetric term to the reward:
logit P(a ≻ b) = w·(φ_a − φ_b) + z_aᵀ A z_b with z = Vᵀφ and A = −Aᵀ, the bilinear form of the General Preference
Model (Zhang et al. 2024). It is linear in (w, A), so the fit is convex and deterministic. The winner is the minimax one
(von Neumann winner; Swamy et al. 2024). The exception path: `fit_if_better` keeps a head only where it predicts better.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_NEWTON_STEPS = 50
NEWTON_TOLERANCE = 1e-8


@dataclass(frozen=True)
class PairwiseHead:
    """A fitted head; with `skew` zero it is a plain reward."""

    weights: Floats  # (D,)
    projection: Floats  # (D, r) orthonormal columns: where the skew part looks
    skew: Floats  # (r, r), skew-symmetric

    def __post_init__(self) -> None:
        rank = self.skew.shape[0]
        if self.skew.shape != (rank, rank) or self.projection.shape != (*self.weights.shape, rank):
            raise ValueError(
                f"shapes must be (D,), (D, r), (r, r); got "
                f"{self.weights.shape}, {self.projection.shape}, {self.skew.shape}"
            )
        if not np.allclose(self.skew, -self.skew.T):
            raise ValueError("skew must be skew-symmetric: P(a beats b) + P(b beats a) = 1")

    def logits(self, features: Floats) -> Floats:
        """Score every candidate against every other: (N, D) -> (N, N), entry [i, j] is logit P(i ≻ j)."""
        rewards = features @ self.weights  # (N,)
        z = features @ self.projection  # (N, r)
        return np.asarray(rewards[:, None] - rewards[None, :] + z @ self.skew @ z.T)


@dataclass(frozen=True)
class FittedComparison:
    """What decided for or against the head: log-losses on comparisons that neither fit had seen."""

    head: PairwiseHead | None  # None: the reward predicts as well, use it
    reward_log_loss: float  # nats a comparison, cross-validated
    head_log_loss: float
    standard_error: float  # of their difference, paired over comparisons


def fit_pairwise(
    chosen: Floats, rejected: Floats, *, rank: int = 8, reward_ridge: float = 1.0, skew_ridge: float = 4.0
) -> PairwiseHead:
    """Fit a head to comparisons (M, D), (M, D) by ridge-penalised logistic regression.

    `rank` principal directions of the features carry the skew part (0: none). Ridges are prior precisions per weight in
    units of the features' own spread. Cost O(M·p²) a Newton step with p = D + r(r−1)/2; about ten steps.
    """
    _check_comparisons(chosen, rejected)
    if not 0 <= rank <= chosen.shape[1]:
        raise ValueError(f"rank must lie in 0..D={chosen.shape[1]}, got {rank}")
    if min(reward_ridge, skew_ridge) <= 0:
        raise ValueError("ridges must be above 0, or separable comparisons have no finite fit")
    projection = _principal_directions(np.concatenate([chosen, rejected]), rank)
    rows, cols = np.triu_indices(rank, k=1)
    za, zb = chosen @ projection, rejected @ projection  # (M, r)
    wedge = za[:, rows] * zb[:, cols] - za[:, cols] * zb[:, rows]  # (M, r(r-1)/2)
    design = np.concatenate([chosen - rejected, wedge], axis=1)  # (M, p)
    ridge = np.concatenate([np.full(chosen.shape[1], reward_ridge), np.full(len(rows), skew_ridge)])
    scale = np.sqrt(np.mean(design**2, axis=0)) + 1e-12
    theta = _logistic_ridge(design / scale, ridge) / scale
    skew = np.zeros((rank, rank))
    skew[rows, cols] = theta[chosen.shape[1] :]
    return PairwiseHead(theta[: chosen.shape[1]], projection, skew - skew.T)


def fit_if_better(
    chosen: Floats, rejected: Floats, rng: np.random.Generator, *, rank: int = 8, num_folds: int = 5, min_z: float = 2.0
) -> FittedComparison:
    """Fit a head and keep it only where it predicts unseen comparisons better than a reward does.

    Better means: cross-validated log-loss lower by more than `min_z` standard errors of the paired difference.
    Comparisons that are not independent (one person's, one item's) make that error too small; raise `min_z` for them.
    """
    _check_comparisons(chosen, rejected)
    num = len(chosen)
    if not 2 <= num_folds <= num:
        raise ValueError(f"num_folds must lie in 2..{num} comparisons, got {num_folds}")
    fold = rng.permutation(num) % num_folds  # (M,)
    losses = np.empty((2, num))
    for f in range(num_folds):
        train, test = fold != f, fold == f
        for row, fold_rank in enumerate((0, rank)):
            fitted = fit_pairwise(chosen[train], rejected[train], rank=fold_rank)
            losses[row, test] = np.logaddexp(0.0, -_pair_logits(fitted, chosen[test], rejected[test]))
    gain = losses[0] - losses[1]
    error = float(gain.std(ddof=1) / np.sqrt(num))
    keep = gain.mean() > min_z * error
    head = fit_pairwise(chosen, rejected, rank=rank) if keep else None
    return FittedComparison(head, float(losses[0].mean()), float(losses[1].mean()), error)


def minimax_winner(logits: Floats) -> int:
    """Pick the candidate whose worst duel is least bad: argmax_i min_j P(i ≻ j); (N, N) logits.

    A candidate that beats every other is always picked. Ties go to the higher mean, then to the lower index.
    """
    _check_game(logits)
    probabilities = _sigmoid(logits)
    worst, mean = probabilities.min(axis=1), probabilities.mean(axis=1)
    return int(max(range(len(logits)), key=lambda i: (round(float(worst[i]), 12), round(float(mean[i]), 12), -i)))


def minimax_mixture(logits: Floats, *, num_steps: int = 4000) -> Floats:
    """Find the von Neumann winner: the mixture (N,) over candidates that no candidate beats on average.

    By optimistic multiplicative weights (Rakhlin & Sridharan 2013), deterministic from uniform; the value is within
    about 2·log N / num_steps of the exact .5. Use `minimax_winner` where one answer must be served.
    """
    _check_game(logits)
    payoff = _sigmoid(logits) - 0.5  # (N, N), skew-symmetric
    log_weights = np.zeros(len(logits))
    last, average = np.zeros(len(logits)), np.zeros(len(logits))
    for _ in range(num_steps):
        play = np.exp(log_weights + last - (log_weights + last).max())
        play /= play.sum()
        last = payoff @ play  # step size 1: the payoffs lie within ±.5
        log_weights += last
        average += play
    return np.asarray(average / num_steps)


def _pair_logits(head: PairwiseHead, a: Floats, b: Floats) -> Floats:
    za, zb = a @ head.projection, b @ head.projection
    return np.asarray((a - b) @ head.weights + np.einsum("mr,rs,ms->m", za, head.skew, zb))


def _principal_directions(features: Floats, rank: int) -> Floats:
    """Top right singular vectors (D, rank), through the (D, D) moment matrix: linear in the number of rows."""
    _, vectors = np.linalg.eigh(features.T @ features)
    return np.asarray(vectors[:, ::-1][:, :rank])


def _logistic_ridge(design: Floats, ridge: Floats) -> Floats:
    """Minimise Σ log(1 + e^{−x·θ}) + ½ Σ ridge·θ² by damped Newton steps; every row is a win."""
    theta = np.zeros(design.shape[1])

    def loss(at: Floats) -> float:
        return float(np.logaddexp(0.0, -(design @ at)).sum() + 0.5 * (ridge * at) @ at)

    value = loss(theta)
    for _ in range(NUM_NEWTON_STEPS):
        p = _sigmoid(design @ theta)
        gradient = ridge * theta - design.T @ (1.0 - p)
        hessian = (design * (p * (1.0 - p))[:, None]).T @ design
        hessian[np.diag_indices_from(hessian)] += ridge
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while loss(theta - size * step) > value and size > 1e-6:  # far from the optimum a full step may overshoot
            size /= 2
        theta = theta - size * step
        value = loss(theta)
        if float(gradient @ step) < NEWTON_TOLERANCE:
            break
    return theta


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))  # safe for any magnitude


def _check_comparisons(chosen: Floats, rejected: Floats) -> None:
    if chosen.ndim != 2 or chosen.shape != rejected.shape or len(chosen) == 0:
        raise ValueError(f"give chosen and rejected as (M, D) each with M > 0, got {chosen.shape} and {rejected.shape}")


def _check_game(logits: Floats) -> None:
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1] or len(logits) == 0:
        raise ValueError(f"give logits (N, N), got {logits.shape}")
    if not np.allclose(logits, -logits.T):
        raise ValueError("logits must be skew-symmetric: entry [i, j] is logit P(i beats j)")
