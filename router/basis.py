"""The reward basis: what everyone likes, and the few directions in which people differ.

One joint logistic factorisation of everyone's feedback: score = (base + w_u·B)·x, with ridge penalties on base, B and
the people's w_u (the low-rank reward basis of LoRe, Bose et al. 2025), minimised by L-BFGS.
Knows nothing of priors over w; those come after, in `population`.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from router.feedback import FeedbackTable
from router.inputs import Inputs
from router.types import Array

NEAR = 30  # iterations from a basis learned from some of the people


@dataclass(frozen=True)
class BasisConfig:
    """How the reward basis is learned."""

    rank: int = 8  # learned directions
    basis_ridge: float = 1.0
    base_ridge: float = 1.0
    max_iterations: int = 120

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError("rank must be at least 0")
        if min(self.basis_ridge, self.base_ridge) <= 0.0:
            raise ValueError("ridges must be positive")


@dataclass(frozen=True, eq=False)
class Basis:
    """A learned basis over standardised features x."""

    directions: Array  # (rank, P)
    base: Array  # (P,) reward everyone shares
    threshold: float  # mean thumb threshold
    weights: Array  # (U, rank) each person's point estimate, by which the table was explained


def fit_base(
    table: FeedbackTable, inputs: Array | Inputs, ridge: float, max_iterations: int = 300
) -> tuple[Array, float]:
    """Fit the pooled Bradley-Terry reward over inputs (n, P): its weights (P,) and the mean threshold."""
    config = BasisConfig(rank=0, base_ridge=ridge, max_iterations=max_iterations)
    basis = _minimise(table, inputs, np.zeros((inputs.shape[0], 0)), config, np.zeros(inputs.shape[1] + 1))
    return basis.base, basis.threshold


def fit_basis(
    table: FeedbackTable,
    base_inputs: Array | Inputs,
    taste_inputs: Array | Inputs,
    config: BasisConfig,
    rng: np.random.Generator,
    near: Basis | None = None,
) -> Basis:
    """Fit base reward over `base_inputs` (n, Pb) and directions over `taste_inputs` (n, P) jointly.

    Cost per iteration O(n·P·rank + R·rank): linear in feedback. Deterministic given `rng`. From a basis `near` the
    optimum, such as that of some of the people, it goes `NEAR` iterations at most.
    """
    if near is not None:
        start = [near.base, np.array([near.threshold])]
        if config.rank:
            weights = _tastes(table, base_inputs, taste_inputs, near)
            start += [near.directions.ravel(), weights.ravel(), np.zeros(len(weights))]
        few = replace(config, max_iterations=min(NEAR, config.max_iterations))
        return _minimise(table, base_inputs, taste_inputs, few, np.concatenate(start))
    base, threshold = fit_base(table, base_inputs, config.base_ridge)
    U, P = table.num_people, taste_inputs.shape[1]
    if config.rank == 0:  # nothing but the shared reward
        return Basis(np.zeros((0, P)), base, threshold, np.zeros((U, 0)))
    scale = 0.1 / np.sqrt(max(_mean_square_norm(taste_inputs), 1e-12))
    drawn = [rng.normal(size=config.rank * P) * scale, rng.normal(size=U * config.rank) * 0.3, np.zeros(U)]
    return _minimise(table, base_inputs, taste_inputs, config, np.concatenate([base, [threshold], *drawn]))


def _tastes(table: FeedbackTable, base_inputs: Array | Inputs, inputs: Array | Inputs, basis: Basis) -> Array:
    """Return people's weights (U, rank) in a basis: one step from none at all, by the curvature of an open question."""
    differences = table.differences()
    phi = differences @ (inputs @ basis.directions.T)  # (R, rank)
    _, slope = row_loss(table, differences @ (base_inputs @ basis.base) + table.thresholds * basis.threshold)
    people, U, rank = table.row_people, table.num_people, len(basis.directions)
    sums = np.array([np.bincount(people, -slope * phi[:, d], U) for d in range(rank)])  # (rank, U)
    products = [np.bincount(people, 0.25 * phi[:, i] * phi[:, j], U) for i in range(rank) for j in range(rank)]
    precision = np.eye(rank) + np.array(products).T.reshape(U, rank, rank)
    return np.asarray(np.linalg.solve(precision, sums.T[:, :, None])[:, :, 0])


def row_loss(table: FeedbackTable, scores: Array) -> tuple[float, Array]:
    """Weighted negative log-likelihood of rows taken one by one, and its slope in the scores (R,).

    A ranking's rows count as comparisons (a composite likelihood): enough for finding directions.
    """
    lows, highs = table.lows[table.groups], table.highs[table.groups]
    weights = table.weights[table.groups]
    width = np.where(np.isfinite(lows) & np.isfinite(highs), lows - highs, -np.inf)
    log_p = -np.logaddexp(0.0, lows - scores) - np.logaddexp(0.0, scores - highs) + np.log1p(-np.exp(width))
    slope = 1.0 - expit(scores - lows) - expit(scores - highs)
    return -float(weights @ log_p), -weights * slope


def _mean_square_norm(inputs: Array | Inputs) -> float:
    if isinstance(inputs, Inputs):
        return inputs.mean_square_norm()
    return float((inputs**2).sum(axis=1).mean())


def _minimise(
    table: FeedbackTable, base_inputs: Array | Inputs, inputs: Array | Inputs, config: BasisConfig, start: Array
) -> Basis:
    differences = table.differences()
    transposed = differences.T
    people, U = table.row_people, table.num_people
    Pb, P, rank = base_inputs.shape[1], inputs.shape[1], config.rank
    cuts = np.cumsum([Pb, 1, rank * P, U * rank])

    def loss(flat: Array) -> tuple[float, Array]:
        base, threshold, directions, weights, thresholds = np.split(flat, cuts)
        B, W = directions.reshape(rank, P), weights.reshape(U, rank)
        phi = differences @ _products(base_inputs, inputs, base, B)  # (R, 1 + rank)
        scores = phi[:, 0] + table.thresholds * threshold
        if rank:
            scores = scores + np.sum(phi[:, 1:] * W[people], axis=1) + table.thresholds * thresholds[people]
        value, slope = row_loss(table, scores)
        value += 0.5 * config.base_ridge * float(base @ base)
        on_rows = transposed @ (slope[:, None] * np.column_stack([np.ones(len(slope)), W[people]]))  # (n, 1 + rank)
        on_base, on_basis = _slopes(base_inputs, inputs, on_rows)
        parts = [on_base + config.base_ridge * base, np.array([slope @ table.thresholds])]
        if rank:
            value += 0.5 * float(weights @ weights + thresholds @ thresholds + config.basis_ridge * (B**2).sum())
            slopes = slope[:, None] * phi[:, 1:]
            on_weights = np.column_stack([np.bincount(people, slopes[:, d], U) for d in range(rank)]) + W
            on_thresholds = np.bincount(people, slope * table.thresholds, U) + thresholds
            parts += [(on_basis + config.basis_ridge * B).ravel(), on_weights.ravel(), on_thresholds]
        return value, np.concatenate(parts)

    limits = {"maxiter": config.max_iterations, "maxfun": 2 * config.max_iterations}
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options=limits).x
    base, threshold, directions, weights, _ = np.split(best, cuts)
    return Basis(directions.reshape(rank, P), base, float(threshold[0]), weights.reshape(U, rank))


def _products(base_inputs: Array | Inputs, inputs: Array | Inputs, base: Array, B: Array) -> Array:
    """Return the items' shared rewards and their features along `B`, (n, 1 + rank); one reading of a large table."""
    if raw := _same(base_inputs, inputs):
        return np.asarray(raw[0] @ np.vstack([base * raw[1], B * raw[2]]).T)
    return np.column_stack([base_inputs @ base, inputs @ B.T])


def _slopes(base_inputs: Array | Inputs, inputs: Array | Inputs, on_rows: Array) -> tuple[Array, Array]:
    """Return slopes in `base` and `B` from those in `_products`, (n, 1 + rank)."""
    if raw := _same(base_inputs, inputs):
        both = on_rows.T @ raw[0]
        return both[0] * raw[1], both[1:] * raw[2]
    return on_rows[:, 0] @ base_inputs, on_rows[:, 1:].T @ inputs


def _same(base_inputs: Array | Inputs, inputs: Array | Inputs) -> tuple[Inputs, Array, Array] | None:
    """Return features that both are scaled from, and their scales."""
    if not (isinstance(base_inputs, Inputs) and isinstance(inputs, Inputs)):
        return None
    if base_inputs.features is not inputs.features or base_inputs.center is not inputs.center:
        return None
    return replace(inputs, scales=np.ones(len(inputs.scales))), base_inputs.scales, inputs.scales
