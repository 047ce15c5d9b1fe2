"""One likelihood for every kind of feedback, as rows of scores with first and second derivatives.

Comparisons, thumbs and edits are logistic (Bradley-Terry), ratings are ordered levels (cumulative logit), rankings are
successive choices (Plackett-Luce). A label is flipped, that is drawn evenly from all outcomes, with probability
λ; for two outcomes λ = 2ε is the symmetric noise of rDPO (Chowdhury et al. 2024).
Knows nothing of priors or posteriors.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, softmax

from router.types import Array, Choice, Comparison, Event, Evidence, Population, Ranking, Rating, Thumb

LOG_TINY = -700.0  # below it exp() underflows


class Terms(NamedTuple):
    """Log-likelihood of each group, and the derivatives of their weighted sum in the scores, for K latents at once."""

    values: Array  # (K, G)
    gradient: Array  # (K, R)
    curvature: Array  # (K, R), >= 0: the negative second derivative, clipped where a flip makes it negative
    between: Array | None  # (K, R): choices only; the Hessian loses each group's outer product of Σ_r between_r d_r
    exact: Array  # (K, R): the curvature as it is, negative where a flip makes it so; `curvature` where it is that
    exact_between: Array | None  # (K, R)


class Rows(Protocol):
    """What is known of observations besides their scores: arrays over (K, R), or (B, K, R) for B people."""

    @property
    def lows(self) -> Array:
        """May be -inf."""

    @property
    def highs(self) -> Array:
        """May be inf."""

    @property
    def num_outcomes(self) -> Array:
        """How many were possible."""


def encode(population: Population, event: Event) -> Evidence:
    """Turn one event into rows; offsets carry the base reward.

    Raises ValueError when the event's features do not have the population's D, or a level lies beyond its cuts.
    """
    lows, highs = np.zeros(1), np.full(1, np.inf)
    num_outcomes, signs = 2.0, (1.0, 0.0)  # sign of the taste and of the threshold in the design
    match event:
        case Comparison():
            stages = [(event.chosen - event.rejected)[None]]
        case Choice():
            stages = [event.chosen - event.rejected]
        case Ranking():
            n = event.features.shape[0]
            stages = [event.features[i] - event.features[i + 1 :] for i in range(n - 1)]
        case Thumb():
            stages, signs = [(event.features - event.reference)[None]], (float(event.value), -float(event.value))
        case Rating():
            cuts = np.concatenate([[-np.inf], population.rating_cuts, [np.inf]])
            if event.level > cuts.size - 2:
                raise ValueError(f"level {event.level} is above this population's highest, {cuts.size - 2}")
            lows, highs = cuts[event.level, None], cuts[event.level + 1, None]
            stages, signs, num_outcomes = [(event.features - event.reference)[None]], (1.0, -1.0), cuts.size - 1.0
        case _:
            raise ValueError(
                f"events are comparisons, choices, rankings, thumbs or ratings, not {type(event).__name__}"
            )
    tastes = np.concatenate(stages)  # (R, D)
    if tastes.shape[1] != population.num_features:
        raise ValueError(f"event has {tastes.shape[1]} features, but the population has {population.num_features}")
    G = len(stages)
    outcomes = [num_outcomes] if G == 1 and num_outcomes > 2 else [len(stage) + 1.0 for stage in stages]
    return Evidence(
        designs=np.column_stack([signs[0] * tastes, np.full(len(tastes), signs[1])]),
        offsets=signs[0] * (tastes @ population.base_weights),
        groups=np.repeat(np.arange(G), [len(stage) for stage in stages]),
        lows=np.repeat(lows, G),
        highs=np.repeat(highs, G),
        weights=np.full(G, event.weight),
        num_outcomes=np.array(outcomes),
        times_s=np.full(G, event.time_s),
        event_ids=(event.event_id,) * G,
        targets=(event.target,) * G,
    )


def empty_evidence(num_latents: int) -> Evidence:
    """Return evidence of no event, for L latent coordinates."""
    none = np.zeros(0)
    return Evidence(np.zeros((0, num_latents)), none, np.zeros(0, np.int64), none, none, none, none, none, (), ())


def concatenate(parts: Sequence[Evidence]) -> Evidence:
    """Join evidence in the order given; needs at least one part."""
    starts = np.cumsum([0, *[part.num_groups for part in parts]])
    return Evidence(
        designs=np.concatenate([part.designs for part in parts]),
        offsets=np.concatenate([part.offsets for part in parts]),
        groups=np.concatenate([part.groups + start for part, start in zip(parts, starts, strict=False)]),
        lows=np.concatenate([part.lows for part in parts]),
        highs=np.concatenate([part.highs for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
        num_outcomes=np.concatenate([part.num_outcomes for part in parts]),
        times_s=np.concatenate([part.times_s for part in parts]),
        event_ids=tuple(name for part in parts for name in part.event_ids),
        targets=tuple(name for part in parts for name in part.targets),
    )


def select(evidence: Evidence, keep: Sequence[bool] | NDArray[np.bool_]) -> Evidence:
    """Return the groups whose `keep` (G,) is true."""
    groups = np.asarray(keep, dtype=bool)
    rows = groups[evidence.groups]
    return Evidence(
        designs=evidence.designs[rows],
        offsets=evidence.offsets[rows],
        groups=(np.cumsum(groups) - 1)[evidence.groups[rows]],
        lows=evidence.lows[groups],
        highs=evidence.highs[groups],
        weights=evidence.weights[groups],
        num_outcomes=evidence.num_outcomes[groups],
        times_s=evidence.times_s[groups],
        event_ids=tuple(name for name, kept in zip(evidence.event_ids, groups, strict=True) if kept),
        targets=tuple(name for name, kept in zip(evidence.targets, groups, strict=True) if kept),
    )


def evaluate(evidence: Evidence, latents: Array, weights: Array, flip_rate: float) -> Terms:
    """Evaluate the log-likelihood at K latents (K, L), each group weighted by `weights` (G,). Cost O(K·R·L)."""
    scores = latents @ evidence.designs.T + evidence.offsets  # (K, R)
    if not evidence.has_choices:
        return evaluate_rows(scores, evidence, weights, flip_rate, is_plain=evidence.is_plain)
    rows, is_row = evidence.group_rows, evidence.group_rows >= 0  # (G, M)
    terms = evaluate_choices(np.where(is_row, scores[:, rows], np.inf), evidence, weights, flip_rate)
    return Terms(terms.values, *(part[:, is_row] for part in terms[1:] if part is not None))


def evaluate_rows(scores: Array, rows: Rows, weights: Array, flip_rate: float, *, is_plain: bool) -> Terms:
    """Evaluate observations of one row each at their scores (K, R), or (B, K, R) of B people at once.

    `is_plain` says that all are comparisons and thumbs, so that the likelihood takes its shortest form.
    """
    if is_plain:
        upper = expit(scores)
        slope = 1.0 - upper
        return _single(log_expit(scores), slope, upper * slope, weights, rows.num_outcomes, flip_rate)
    above, below = scores - rows.lows, scores - rows.highs
    upper, lower = expit(above), expit(below)
    slope = 1.0 - upper - lower
    bend = upper * (1.0 - upper) + lower * (1.0 - lower)
    return _single(_log_interval(rows, scores), slope, bend, weights, rows.num_outcomes, flip_rate)


def log_likelihood(evidence: Evidence, latents: Array, flip_rate: float) -> Array:
    """Return the log-likelihood of each group at K latents (K, L): (K, G)."""
    return evaluate(evidence, latents, np.ones(evidence.num_groups), flip_rate).values


def probabilities(evidence: Evidence, latents: Array, flip_rate: float) -> Array:
    """Return the probabilities (K, G, M + 1) of what was said, then of each of M responses that were not chosen.

    Of a level all others count as one. Where a group has fewer rows than M the rest is nought.
    """
    rows, is_row = evidence.group_rows, evidence.group_rows >= 0  # (G, M)
    scores = (latents @ evidence.designs.T + evidence.offsets)[:, rows]
    logits = np.where(is_row, -scores, -np.inf)
    found = softmax(np.concatenate([np.zeros_like(logits[..., :1]), logits], axis=-1), axis=-1)
    is_there = np.concatenate([np.ones_like(is_row[:, :1]), is_row], axis=-1)
    share = 2.0 * flip_rate
    found = np.where(is_there, (1.0 - share) * found + share / evidence.num_outcomes[:, None], 0.0)
    is_level = np.isfinite(evidence.highs) | (evidence.lows != 0.0)
    said = np.exp(log_likelihood(evidence, latents, flip_rate)[:, is_level])
    found[:, is_level, 0], found[:, is_level, 1] = said, 1.0 - said
    return np.asarray(found)


def _single(log_p: Array, slope: Array, bend: Array, weights: Array, num_outcomes: Array, flip_rate: float) -> Terms:
    """Terms of groups of one row, from the derivatives of the log-probability without flips."""
    if flip_rate == 0.0:
        curvature = weights * bend
        return Terms(log_p, weights * slope, curvature, None, curvature, None)
    values, trust = _flipped(log_p, num_outcomes, flip_rate)
    exact = weights * (trust * bend - trust * (1.0 - trust) * slope**2)
    return Terms(values, weights * trust * slope, np.maximum(exact, 0.0), None, exact, None)


def _log_interval(rows: Rows, scores: Array) -> Array:
    """log(σ(s - low) - σ(s - high)) = log σ(s - low) + log σ(high - s) + log(1 - exp(low - high))."""
    width = rows.lows - rows.highs  # -inf at the outer levels: the last term vanishes
    return np.asarray(log_expit(scores - rows.lows) + log_expit(rows.highs - scores) + np.log1p(-np.exp(width)))


def _flipped(log_p: Array, num_outcomes: Array, flip_rate: float) -> tuple[Array, Array]:
    """Mix in flips: log(λ/C + (1 - λ) p), and the probability that the label was not flipped."""
    share = 2.0 * flip_rate
    if share == 0.0:
        return log_p, np.ones_like(log_p)
    kept = (1.0 - share) * np.exp(np.maximum(log_p, LOG_TINY))
    total = kept + share / num_outcomes
    return np.log(total), kept / total


def evaluate_choices(scores: Array, rows: Rows, weights: Array, flip_rate: float) -> Terms:
    """Evaluate observations of any kind at their scores (..., G, M): choices are p = 1 / (1 + Σ_m exp(-s_m)).

    Groups of fewer than M rows are filled up with scores of infinity; one row is a comparison, thumb or rating. The
    derivatives are (..., G, M), nought where there is no row.
    """
    top = np.maximum(-scores.min(axis=-1), 0.0)  # (..., G)
    shares = np.exp(-scores - top[..., None])
    total = np.exp(-top) + shares.sum(axis=-1)
    log_p = -top - np.log(total)
    shares /= total[..., None]  # the probability of each response not chosen
    slope, bend, between = shares, shares, shares
    is_level = np.isfinite(rows.highs) | (rows.lows != 0.0)  # (..., G), always of one row
    has_levels = bool(is_level.any())
    if has_levels:
        first = scores[..., 0]
        upper, lower = expit(first - rows.lows), expit(first - rows.highs)
        slope, bend, between = shares.copy(), shares.copy(), shares.copy()
        slope[..., 0] = np.where(is_level, 1.0 - upper - lower, slope[..., 0])
        bend[..., 0] = np.where(is_level, upper * (1.0 - upper) + lower * (1.0 - lower), bend[..., 0])
        between[..., 0] = np.where(is_level, 0.0, between[..., 0])
        log_p = np.where(is_level, _log_interval(rows, first), log_p)
    values, trust = _flipped(log_p, rows.num_outcomes, flip_rate)
    scale = weights * trust  # (..., G)
    # Choices take the EM bound's curvature (expected over whether the label was flipped): always positive.
    curvature, spread = scale[..., None] * bend, np.sqrt(scale)[..., None] * between
    gradient = scale[..., None] * slope
    if flip_rate == 0.0:
        return Terms(values, gradient, curvature, spread, curvature, spread)
    doubt, exact = 1.0 - trust, curvature
    if has_levels:
        exact = curvature.copy()
        exact[..., 0] -= np.where(is_level, scale * doubt * slope[..., 0] ** 2, 0.0)
    return Terms(values, gradient, curvature, spread, exact, np.sqrt(1.0 + doubt)[..., None] * spread)
