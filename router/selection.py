"""Choose the answer: guards, the challenger-beats-base gate, and who survives a halving checkpoint.

Works on numbers only: rewards, probabilities and cheap text statistics that the caller measured. Knows nothing of
features, posteriors, texts or engines. A candidate is a position in the plan; position `base` is the untouched model.
The log-sigmoid transform of rewards is that of Wang et al. 2024, "Transforming and Combining Rewards for Aligning
Large Language Models"; halving is sequential halving (Karnin et al. 2013) over running means.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NGRAM = 4  # shorter repeats are normal in lists and code; longer ones are seen too late at 16-token checkpoints
DEFAULT_GATE = 0.55  # P(challenger better than base) from which it is served; docs/routing.md has the measurement
TAIL_TOKENS = 64  # a loop that starts late hides in the average of a long answer, not in its last tokens


class Reason(StrEnum):
    """Why a candidate won."""

    NO_TASTE = "no_taste"  # nothing is known or asked for: the base path
    ONLY = "only"  # there was one candidate
    REWARD = "reward"  # a challenger is better with the configured probability
    BASE_BEST = "base_best"  # no challenger scores above the base
    GATE = "gate"  # a challenger scores above the base, none with enough probability
    BASE_VETOED = "base_vetoed"  # the base answer is degenerate, a challenger is not
    ALL_VETOED = "all_vetoed"  # every answer is degenerate: the base is served


@dataclass(frozen=True)
class CandidateStats:
    """What the guards look at; cheap to measure from one finished or running candidate."""

    num_tokens: int
    degeneracy: float  # 0 (no repetition) to 1 (one token repeated), see `degeneracy`
    is_truncated: bool = False  # stopped by max_tokens rather than by the model
    prompt_similarity: float | None = None  # cosine to the prompt, None when not measured

    def __post_init__(self) -> None:
        if self.num_tokens < 0:
            raise ValueError(f"num_tokens must be 0 or more, got {self.num_tokens}")
        if not 0.0 <= self.degeneracy <= 1.0:
            raise ValueError(f"degeneracy must lie in [0, 1], got {self.degeneracy}; use selection.degeneracy")


@dataclass(frozen=True)
class GuardLimits:
    """Where guards begin. Penalties are in logits of a comparison, the unit of rewards."""

    max_degeneracy: float = 0.5  # at or above: veto. Prose measures below .1, tables and code below .4
    free_degeneracy: float = 0.1  # repetition that costs nothing; more of it does where the base has less
    degeneracy_penalty: float = 10.0  # logits per unit of repetition beyond it
    free_length_ratio: float = 2.0  # up to this multiple of the base answer's length costs nothing
    length_penalty: float = 0.5  # logits for every factor e beyond it
    min_length_tokens: int = 16  # a one-word base answer must not make every sentence "long"
    truncation_penalty: float = 0.1  # logits; equal for all when all are cut, so it only separates
    free_similarity_drop: float = 0.15  # drop in prompt similarity below the base that costs nothing
    similarity_penalty: float = 4.0  # logits per unit of similarity beyond it

    def __post_init__(self) -> None:
        if not 0.0 < self.max_degeneracy <= 1.0:
            raise ValueError(f"max_degeneracy must lie in (0, 1], got {self.max_degeneracy}")
        if not 0.0 <= self.free_degeneracy <= 1.0:
            raise ValueError(f"free_degeneracy must lie in [0, 1], got {self.free_degeneracy}")
        if self.free_length_ratio < 1.0:
            raise ValueError(f"free_length_ratio must be at least 1, got {self.free_length_ratio}")
        if self.min_length_tokens < 1:
            raise ValueError(f"min_length_tokens must be at least 1, got {self.min_length_tokens}")
        penalties = self.degeneracy_penalty, self.length_penalty, self.truncation_penalty, self.similarity_penalty
        if min(*penalties, self.free_similarity_drop) < 0:
            raise ValueError("penalties and allowances must be 0 or more; a guard never rewards")


@dataclass(frozen=True)
class Choice:
    """The decision: candidates in the order they are served, the winner first."""

    order: tuple[int, ...]  # at most num_best positions
    reason: Reason
    prob_over_base: float  # of the winner where it is a challenger, else of the best challenger; .5 without one

    @property
    def winner(self) -> int:
        """Position of the candidate to serve."""
        return self.order[0]


def degeneracy(token_ids: Sequence[int]) -> float:
    """Measure repetition: the share of 4-grams seen before, in the whole or in the last 64 tokens, whichever is worse.

    In [0, 1]. Sequences too short to repeat a 4-gram measure 0. Cost linear in tokens, about 0.1 µs each.
    """
    whole = _repeated_share(token_ids)
    if len(token_ids) <= TAIL_TOKENS:
        return whole
    return max(whole, _repeated_share(token_ids[-TAIL_TOKENS:]))


def _repeated_share(token_ids: Sequence[int]) -> float:
    num_ngrams = len(token_ids) - NGRAM + 1
    if num_ngrams <= 1:
        return 0.0
    distinct = len(set(zip(*(token_ids[i:] for i in range(NGRAM)), strict=False)))
    return 1.0 - (distinct - 1) / (num_ngrams - 1)  # one n-gram is always new, so a constant sequence measures 1


def guard_penalties(stats: Sequence[CandidateStats], limits: GuardLimits, base: int = 0) -> Floats:
    """Turn statistics into penalties (N,) in logits, 0 or more; `inf` is a veto. Length and topic compare with base."""
    if not 0 <= base < len(stats):
        raise ValueError(f"base {base} is not one of the {len(stats)} candidates")
    return np.array([_penalty(s, stats[base], limits) for s in stats])


def _penalty(stats: CandidateStats, base: CandidateStats, limits: GuardLimits) -> float:
    if stats.degeneracy >= limits.max_degeneracy:
        return math.inf
    allowed = limits.free_length_ratio * max(base.num_tokens, limits.min_length_tokens)
    penalty = limits.length_penalty * max(0.0, math.log(max(stats.num_tokens, 1) / allowed))
    penalty += limits.truncation_penalty * stats.is_truncated
    penalty += limits.degeneracy_penalty * max(0.0, stats.degeneracy - max(base.degeneracy, limits.free_degeneracy))
    if stats.prompt_similarity is not None and base.prompt_similarity is not None:
        drop = base.prompt_similarity - stats.prompt_similarity - limits.free_similarity_drop
        penalty += limits.similarity_penalty * max(0.0, drop)
    return penalty


def saturated(gains: Floats) -> Floats:
    """Transform rewards over the base, 2·(log σ(g) + log 2): near 0 as they are, at most 1.4 logits, losses in full.

    Of a taste far out, the candidate that exaggerates most is not the one to serve: past what surely beats the base, a
    guard's penalty counts more than further reward. Keeps the order.
    """
    return np.asarray(2.0 * (math.log(2.0) - np.logaddexp(0.0, -gains)))


def keep_base(num_candidates: int, base: int = 0, num_best: int = 1) -> Choice:
    """Serve the base path, in plan order: what a person with no feedback and no explicit weights gets."""
    _check_sizes(num_candidates, base, num_best)
    others = (i for i in range(num_candidates) if i != base)
    return Choice((base, *others)[:num_best], Reason.NO_TASTE, 0.5)


def choose(scores: Floats, prob_over_base: Floats, gate: float, base: int = 0, num_best: int = 1) -> Choice:
    """Pick the winner: the best challenger that beats the base with probability `gate` or more, else the base.

    `scores` (N,): reward minus penalties, −inf for a veto. `prob_over_base` (N,): P(better than base | posterior), the
    base's own entry is ignored. Ties go to the base. `num_best` > 1 appends the rest by score, vetoed ones last, so a
    caller that asks for n answers gets n.
    """
    _check_sizes(len(scores), base, num_best)
    if prob_over_base.shape != scores.shape or np.isnan(scores).any():
        raise ValueError("give one finite or -inf score and one probability for each candidate")
    if not 0.5 <= gate <= 1.0:
        raise ValueError(f"the gate is a probability between .5 and 1, got {gate}")
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i != base, i))
    winner, reason = _winner(scores, prob_over_base, gate, base, ranked)
    order = (winner, *(i for i in ranked if i != winner))
    shown = winner if winner != base else next((i for i in ranked if i != base), base)
    probability = 0.5 if shown == base else float(prob_over_base[shown])
    return Choice(order[:num_best], reason, probability)


def _winner(scores: Floats, prob: Floats, gate: float, base: int, ranked: list[int]) -> tuple[int, Reason]:
    if not np.isfinite(scores[base]):
        best = ranked[0]  # base itself where all are vetoed: ties go to the base
        return best, Reason.ALL_VETOED if best == base else Reason.BASE_VETOED
    better = [i for i in ranked if scores[i] > scores[base]]
    passing = (i for i in better if prob[i] >= gate)
    winner = next(passing, base)
    if winner != base:
        return winner, Reason.REWARD
    return base, Reason.GATE if better else Reason.BASE_BEST


def halving_schedule(num_arms: int, checkpoints: Sequence[int], num_best: int = 1) -> tuple[tuple[int, int], ...]:
    """Plan how many arms run on after each checkpoint: ((tokens, survivors), ...), geometric from num_arms to num_best.

    8 arms at (16, 32, 64) tokens give 4, 2, 1. Checkpoints at which nobody leaves are dropped.
    """
    if num_best < 1 or num_arms < num_best:
        raise ValueError(f"num_best must lie in 1..{num_arms}, got {num_best}")
    if any(b <= a for a, b in zip((0, *checkpoints), checkpoints, strict=False)):
        raise ValueError(f"checkpoints must be rising token counts from 1, got {tuple(checkpoints)}")
    schedule: list[tuple[int, int]] = []
    running = num_arms
    for i, tokens in enumerate(checkpoints, start=1):
        survivors = round(num_best * (num_arms / num_best) ** (1.0 - i / len(checkpoints)))
        if survivors < running:
            schedule.append((tokens, survivors))
            running = survivors
    return tuple(schedule)


def survivors(
    scores: Floats, prob_over_base: Floats, gate: float, num_keep: int, base: int | None = 0
) -> tuple[int, ...]:
    """Decide who runs on past a checkpoint: `num_keep` positions, rising.

    The base keeps its place, whatever its score, until a challenger passes the gate against it, because it is what the
    gate falls back to; `base` is None once it has left. At `num_keep` 1 this is `choose`.
    """
    if not 1 <= num_keep <= len(scores):
        raise ValueError(f"num_keep must lie in 1..{len(scores)}, got {num_keep}")
    if base is None:
        return tuple(sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:num_keep]))
    return tuple(sorted(choose(scores, prob_over_base, gate, base=base, num_best=num_keep).order))


def _check_sizes(num_candidates: int, base: int, num_best: int) -> None:
    if not 0 <= base < num_candidates:
        raise ValueError(f"base {base} is not one of the {num_candidates} candidates")
    if not 1 <= num_best <= num_candidates:
        raise ValueError(f"num_best must lie in 1..{num_candidates}, got {num_best}")
