"""Say in words and numbers what is believed about a person, and from which feedback.

Per named attribute (a named row of the basis): mean and credible interval of its weight, the share of past decisions
that it drove, and the events that taught it, by leaving each one out. Knows nothing of texts, of storage, or of how
events are forgotten: the caller passes the means that remain without each of them.
"""

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
    """What is believed about one named attribute; weights are in logits per standard deviation of the attribute."""

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
    *,
    decisions: Array,
    means_without: Mapping[str, Array],
) -> Explanation:
    """Explain a taste: the person's deviation from everyone, as a mixture over weights.

    `attribute_names` names the D rows ("" for none). `decisions` (M, D): features of winner minus base in past
    requests; without any, shares are 0. `means_without`: overall mean (D,) of the posterior without each event.
    """
    D = len(taste.mean)
    if len(attribute_names) != D:
        raise ValueError(f"attribute_names needs one name (or '') for each of the {D} features")
    if decisions.ndim != 2 or decisions.shape[1] != D:
        raise ValueError(f"decisions must have shape (any, {D}), but has {decisions.shape}")
    shares = _decision_shares(taste.mean, decisions)
    rows = [d for d in range(D) if attribute_names[d]]
    beliefs = [_belief(taste, d, attribute_names[d], float(shares[d]), means_without) for d in rows]
    beliefs.sort(key=lambda belief: -abs(belief.mean))
    unnamed = float(shares.sum() - shares[rows].sum())
    return Explanation(len(means_without), tuple(beliefs), unnamed, _text(beliefs, unnamed, len(means_without)))


def _decision_shares(mean: Array, decisions: Array) -> Array:
    """Average over decisions of each feature's part |w_d·δ_d| of what decided; (D,), sums to 1 or is 0."""
    parts = np.abs(decisions * mean)  # (M, D)
    totals = parts.sum(axis=1, keepdims=True)
    decided = totals[:, 0] > 0.0
    if not decided.any():
        return np.zeros_like(mean)
    return np.asarray((parts[decided] / totals[decided]).mean(axis=0))


def _belief(taste: Mixture, d: int, name: str, share: float, means_without: Mapping[str, Array]) -> AttributeBelief:
    direction = np.zeros(len(taste.mean))
    direction[d] = 1.0
    tail = 0.5 * (1.0 - CREDIBLE)
    low, high = taste.quantiles(direction, np.array([tail, 1.0 - tail]))
    lessons = [Lesson(event_id, float(taste.mean[d] - mean[d])) for event_id, mean in means_without.items()]
    lessons.sort(key=lambda lesson: -abs(lesson.effect))
    return AttributeBelief(name, float(taste.mean[d]), float(low), float(high), share, tuple(lessons[:MAX_LESSONS]))


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
