"""From measured answers to figures: gain in standard deviations, its interval over people, and who is harmed.

A gain is an answer's utility minus the mean utility of plain answers to the same prompt, in standard deviations of the
person's utility over plain answers to all prompts. Intervals take people as the unit. Knows no server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True, slots=True)
class Score:
    """What one person got for one prompt."""

    arm: str
    best_of: int
    k: int  # pieces of feedback before it
    person: str
    kind: str  # the person's family
    gain: float
    tokens_ratio: float  # tokens computed, against one plain answer
    repeats: bool = False  # whether it runs in circles, which no property of a text need show


@dataclass(frozen=True, slots=True)
class Finding:
    """One arm after k pieces of feedback."""

    arm: str
    best_of: int
    k: int
    gain_sigma: float
    gain_ci: tuple[float, float]  # 95 % over people
    harmed: float  # share of people below the base beyond their own 95 % interval
    tokens_ratio: float
    oracle_share: float | None = None
    win_rate: float = 0.5  # share of answers better than the mean plain answer
    num_people: int = 0
    repeats: float = 0.0  # share of answers

    def to_json(self) -> dict[str, Any]:
        """Render it."""
        return {name: getattr(self, name) for name in self.__slots__}


def find(scores: Sequence[Score], oracle: float | None = None) -> Finding:
    """Summarise one arm's scores. Raises ValueError if there are none."""
    if not scores:
        raise ValueError("there are no scores to summarise")
    people: dict[str, list[float]] = {}
    for score in scores:
        people.setdefault(score.person, []).append(score.gain)
    means = np.array([np.mean(gains) for gains in people.values()])
    first = scores[0]
    return Finding(
        arm=first.arm,
        best_of=first.best_of,
        k=first.k,
        gain_sigma=float(means.mean()),
        gain_ci=_interval(means),
        harmed=float(np.mean([_interval(np.array(gains))[1] < 0.0 for gains in people.values()])),
        tokens_ratio=float(np.mean([score.tokens_ratio for score in scores])),
        oracle_share=None if not oracle else float(means.mean() / oracle),
        win_rate=float(np.mean([score.gain > 0.0 for score in scores])),
        num_people=len(people),
        repeats=float(np.mean([score.repeats for score in scores])),
    )


def group(scores: Sequence[Score], key: Callable[[Score], tuple[Any, ...]]) -> dict[tuple[Any, ...], list[Score]]:
    """Group scores, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[Score]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return groups


def summarise(scores: Sequence[Score]) -> list[Finding]:
    """Summarise every arm at every k."""
    groups = group(scores, lambda score: (score.arm, score.best_of, score.k))
    oracles = [score for score in scores if score.arm == "oracle"]
    oracle = find(oracles).gain_sigma if oracles else None
    return [find(members, oracle) for members in groups.values()]


def by_person(scores: Sequence[Score], arm: str) -> list[dict[str, Any]]:
    """Return each person's mean gain in one arm, so that two runs on the same people can be compared in pairs."""
    groups = group([score for score in scores if score.arm == arm], lambda one: (one.best_of, one.k, one.person))
    return [
        {"best_of": best_of, "k": k, "person": person, "gain": float(np.mean([one.gain for one in members]))}
        for (best_of, k, person), members in groups.items()
    ]


def render(findings: Sequence[Finding]) -> str:
    """Render a table."""
    heads = f"{'gain':>8}{'95 % interval':>18}{'harmed':>8}{'wins':>7}{'repeats':>9}{'tokens':>8}{'oracle':>8}"
    lines = [f"{'arm':<18}{'N':>3}{'k':>4}{heads}"]
    for one in findings:
        interval = f"{one.gain_ci[0]:+.2f} to {one.gain_ci[1]:+.2f}"
        share = "" if one.oracle_share is None else f"{one.oracle_share:.0%}"
        lines.append(
            f"{one.arm:<18}{one.best_of:>3}{one.k:>4}{one.gain_sigma:>+8.2f}{interval:>18}{one.harmed:>8.0%}"
            f"{one.win_rate:>7.0%}{one.repeats:>9.0%}{one.tokens_ratio:>8.2f}{share:>8}"
        )
    return "\n".join(lines)


def _interval(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    """Student's 95 % interval of a mean; everything for a single value."""
    if len(values) < 2:
        return (-np.inf, np.inf)
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half
