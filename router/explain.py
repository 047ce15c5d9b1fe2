"""Say in words and numbers what is believed about a person, and from which feedback.

Per named attribute (a named row of the basis): what one standard deviation more of it brings in reward, as texts come,
with a credible interval; the share of past decisions that it drove; and the events that taught it, by leaving each one
out. Attributes overlap with each other and with directions that have no name, hence the covariance of the features.
Knows nothing of texts, of storage, or of how events are forgotten: the caller passes the means that remain.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from router.mixture import Mixture
from router.types import Array

CREDIBLE = 0.95
MAX_LESSONS = 3


@dataclass(frozen=True)
class Lesson:
    """What one event changed."""

    event_id: str
    effect: float  # on the attribute's mean: with the event minus without it


@dataclass(frozen=True)
class AttributeBelief:
    """What is believed about one named attribute; values are logits of reward per standard deviation of it."""

    name: str
    mean: float
    low: float  # of the 95 % credible interval
    high: float
    decision_share: float  # [0, 1] of what decided between winner and base in past requests
    lessons: tuple[Lesson, ...]  # strongest first, at most three

    @property
    def is_decided(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0.0 or self.high < 0.0


@dataclass(frozen=True)
class Explanation:
    """One person's taste, readable; attributes by falling size of mean."""

    num_events: int
    attributes: tuple[AttributeBelief, ...]
    unnamed_share: float  # of decisions driven by directions without a name
    text: str


def explain(
    taste: Mixture,
    attribute_names: tuple[str, ...],
    response: Array,
    *,
    decisions: Array,
    means_without: Mapping[str, Array],
) -> Explanation:
    """Explain a taste: the person's deviation from everyone, as a mixture over weights.

    `attribute_names` names the D rows ("" for none), `response` (D, D) is the features' covariance. `decisions` (M, D):
    features of winner minus base in past requests; without any, shares are 0. `means_without`: overall mean (D,) of the
    posterior without each event.
    """
    D = len(taste.mean)
    if len(attribute_names) != D:
        raise ValueError(f"attribute_names needs one name (or '') for each of the {D} features")
    if response.shape != (D, D) or not np.diag(response).min() > 0.0:
        raise ValueError(f"response must have shape ({D}, {D}) and a positive diagonal")
    if decisions.ndim != 2 or decisions.shape[1] != D:
        raise ValueError(f"decisions must have shape (any, {D}), but has {decisions.shape}")
    rows = [d for d in range(D) if attribute_names[d]]
    scales = np.sqrt(np.diag(response))[rows]  # (A,)
    directions = np.array([*attribute_directions(attribute_names, response).values()]).reshape(-1, D)  # (A, D)
    shares, unnamed = _decision_shares(taste.mean, decisions, directions, decisions[:, rows] / scales)
    beliefs = [
        _belief(taste, direction, attribute_names[row], share, means_without)
        for row, direction, share in zip(rows, directions, shares.tolist(), strict=True)
    ]
    beliefs.sort(key=lambda belief: -abs(belief.mean))
    return Explanation(len(means_without), tuple(beliefs), unnamed, _text(beliefs, unnamed, len(means_without)))


def attribute_directions(attribute_names: tuple[str, ...], response: Array) -> dict[str, Array]:
    """Return for each name the direction (D,) whose product with a taste is the reward of one deviation more of it.

    `response` (D, D) is the features' covariance: texts that show more of an attribute differ in other features too.
    """
    return {name: response[row] / math.sqrt(response[row, row]) for row, name in enumerate(attribute_names) if name}


def _decision_shares(mean: Array, decisions: Array, directions: Array, changes: Array) -> tuple[Array, float]:
    """Average over decisions each attribute's part of what decided (A,), and the part of no attribute; sum 1 or 0.

    `changes` (M, A): how many standard deviations of each attribute the winner had more than the base.
    """
    named = changes * (directions @ mean)  # (M, A)
    unnamed = decisions @ mean - named.sum(axis=1)  # (M,)
    totals = np.abs(named).sum(axis=1) + np.abs(unnamed)
    decided = totals > 0.0
    if not decided.any():
        return np.zeros(len(directions)), 0.0
    shares = np.abs(named[decided]) / totals[decided, None]
    return np.asarray(shares.mean(axis=0)), float((np.abs(unnamed[decided]) / totals[decided]).mean())


def _belief(
    taste: Mixture, direction: Array, name: str, share: float, means_without: Mapping[str, Array]
) -> AttributeBelief:
    tail = 0.5 * (1.0 - CREDIBLE)
    low, high = taste.quantiles(direction, np.array([tail, 1.0 - tail]))
    mean = float(taste.mean @ direction)
    lessons = [Lesson(event_id, mean - float(without @ direction)) for event_id, without in means_without.items()]
    lessons.sort(key=lambda lesson: -abs(lesson.effect))
    return AttributeBelief(name, mean, float(low), float(high), share, tuple(lessons[:MAX_LESSONS]))


def _text(beliefs: list[AttributeBelief], unnamed: float, num_events: int) -> str:
    if num_events == 0:
        return "Nothing is known yet: no feedback has been given."
    lines = [f"From {num_events} piece{'s' if num_events > 1 else ''} of feedback:"]
    lines += [_line(belief) for belief in beliefs if belief.is_decided]
    undecided = [belief.name for belief in beliefs if not belief.is_decided]
    if undecided:
        lines.append(f"Undecided about: {', '.join(undecided)}.")
    if unnamed > 0.0:
        lines.append(f"{unnamed:.0%} of choices followed tastes that have no name.")
    return "\n".join(lines)


def _line(belief: AttributeBelief) -> str:
    verb = "Likes more" if belief.mean > 0.0 else "Likes less"
    taught = ", ".join(lesson.event_id for lesson in belief.lessons)
    return (
        f"{verb} {belief.name}: {belief.mean:+.2f} ({belief.low:+.2f} to {belief.high:+.2f}); "
        f"drove {belief.decision_share:.0%} of choices; learned most from {taught}."
    )
