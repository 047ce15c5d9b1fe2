"""Whether an adapter wins: its answers beside the base model's to prompts nobody learned from, by people held out.

A win is an answer that a judge's reward puts above the base's of the same prompt and seed; a gain is measured in
standard deviations of the judge's rewards over base answers. Intervals are of a bootstrap over judges and prompts
together. Rewards can be gamed, so the text is looked at as well: what the base model thinks of it, length, repetition,
refusals. Knows neither engines nor training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.types import Array
from serve.jobs.adapt.people import Judges
from serve.jobs.release.comparison import Interval

NUM_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers to P prompts, S to each, as they were read; rows in order of prompt, then of seed."""

    features: Array  # (P, S, D) reward features
    logprobs: Array  # (P, S) mean per token, under the base model
    num_tokens: Array  # (P, S)
    degenerate: Array  # (P, S) of 0 and 1
    refusals: Array  # (P, S) of 0 and 1


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one adapter; differences are adapter minus base."""

    num_judges: int
    judges: str
    num_prompts: int
    num_samples: int  # answers a prompt
    win_rate: Interval
    gain: Interval  # standard deviations of a judge's rewards over base answers
    best_of_base: float  # gain of choosing, by each judge's reward, among the base's answers: what N samples buy
    logprob_change: Interval  # nats a token
    tokens: tuple[float, float]  # mean, base and adapter
    degenerate: tuple[float, float]
    refusals: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Render it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an adapter must show, and what it may cost."""

    min_prompts: int = 16
    max_logprob_drop: float = 0.5  # nats a token, as for steering
    max_degenerate: float = 0.1  # more of the answers
    max_refusals: float = 0.1
    max_length_ratio: float = 2.0  # either way


def judge(base: Answers, adapted: Answers, judges: Judges, seed: int = 0) -> Finding:
    """Compare an adapter's answers with the base's; deterministic under the seed."""
    before, after = (one.features @ judges.weights.T for one in (base, adapted))  # (P, S, J)
    num_prompts, num_samples, num_judges = before.shape
    spread = before.reshape(-1, num_judges).std(axis=0)  # (J,)
    gains = ((after - before) / np.maximum(spread, 1e-9)).mean(axis=1)  # (P, J)
    wins = np.where(after == before, 0.5, after > before).mean(axis=1)  # (P, J)
    best = ((before.max(axis=1) - before.mean(axis=1)) / np.maximum(spread, 1e-9)).mean(axis=0)  # (J,)
    changes = (adapted.logprobs - base.logprobs).mean(axis=1)  # (P,)
    rng = np.random.default_rng(seed)
    drawn_prompts = rng.integers(num_prompts, size=(NUM_DRAWS, num_prompts))
    draws = list(zip(drawn_prompts, rng.integers(num_judges, size=(NUM_DRAWS, num_judges)), strict=True))

    def mean(values: Array) -> Callable[[NDArray[np.int64], NDArray[np.int64]], float]:
        def over(prompts: NDArray[np.int64], people: NDArray[np.int64]) -> float:
            return float(np.average(values[prompts].mean(axis=0)[people], weights=judges.shares[people]))

        return over

    return Finding(
        num_judges=num_judges,
        judges=judges.origin,
        num_prompts=num_prompts,
        num_samples=num_samples,
        win_rate=_interval(mean(wins), draws),
        gain=_interval(mean(gains), draws),
        best_of_base=float(np.average(best, weights=judges.shares)),
        logprob_change=_interval(lambda prompts, _: float(changes[prompts].mean()), draws),
        tokens=(float(base.num_tokens.mean()), float(adapted.num_tokens.mean())),
        degenerate=(float(base.degenerate.mean()), float(adapted.degenerate.mean())),
        refusals=(float(base.refusals.mean()), float(adapted.refusals.mean())),
    )


def decide(found: Finding, limits: Limits) -> tuple[str, ...]:
    """Return why an adapter must not serve; nothing if it may."""
    if found.num_prompts < limits.min_prompts:
        return (f"too little is known to say: {found.num_prompts} prompts, where {limits.min_prompts} are needed",)
    reasons = []
    if found.win_rate.low <= 0.5:
        word = "loses" if found.win_rate.high < 0.5 else "does not surely win"
        reasons.append(f"it {word} against the base model: win rate {found.win_rate}")
    if found.gain.low <= 0.0:
        reasons.append(f"it does not surely gain: {found.gain}")
    if found.logprob_change.mean < -limits.max_logprob_drop:
        reasons.append(f"it costs fluency: log-probability a token changes by {found.logprob_change}")
    if found.degenerate[1] - found.degenerate[0] > limits.max_degenerate:
        reasons.append(f"its answers repeat themselves: {found.degenerate[1]:.1%} after {found.degenerate[0]:.1%}")
    if found.refusals[1] - found.refusals[0] > limits.max_refusals:
        reasons.append(f"it refuses: {found.refusals[1]:.1%} of answers after {found.refusals[0]:.1%}")
    ratio = found.tokens[1] / max(found.tokens[0], 1.0)
    if not 1.0 / limits.max_length_ratio <= ratio <= limits.max_length_ratio:
        reasons.append(f"its answers have {found.tokens[1]:.0f} tokens where the base's have {found.tokens[0]:.0f}")
    return tuple(reasons)


def _interval(
    measure: Callable[[NDArray[np.int64], NDArray[np.int64]], float],
    draws: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> Interval:
    prompts, people = draws[0]
    values = [measure(*one) for one in draws]
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(measure(np.arange(len(prompts)), np.arange(len(people))), float(low), float(high))
