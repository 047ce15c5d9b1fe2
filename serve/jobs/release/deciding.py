"""The rules by which a candidate passes; each names the figure that broke it. Knows nothing of how figures come.

Of what may be no worse, a few people's noise is no evidence: it must be surely worse, and by more than is tolerated.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve.jobs.release.comparison import Comparison, Interval
from serve.jobs.release.served import ServedComparison


@dataclass(frozen=True, slots=True)
class Rules:
    """What a candidate must keep; differences are candidate minus in service."""

    min_people: int = 20
    min_judgements: int = 100
    max_accuracy_loss: float = 0.02  # at the interval's lower end
    max_calibration_loss: float = 0.02
    max_harm: float = 0.05  # more of the people predicted worse than without knowing them
    max_group_loss: float = 0.02  # nats, for the worst group and the tenth of people predicted worst
    max_update_ms: float = 20.0
    max_gain_loss: float = 0.1  # of what simulated people are served, in standard deviations
    max_served_harm: float = 0.05  # more of them served worse than the base
    max_slowdown: float = 1.25  # of the median answer


def decide(found: Comparison, rules: Rules) -> tuple[str, ...]:
    """Return why a candidate must not replace what serves; nothing if it may."""
    if found.num_people < rules.min_people or found.num_judgements < rules.min_judgements:
        return (
            f"too little is known to say: {found.num_people} held-out people and {found.num_judgements} of their "
            f"judgements, where {rules.min_people} and {rules.min_judgements} are needed",
        )
    reasons = []
    loss = found.log_loss.difference
    if loss.high >= 0.0:
        word = "worse" if loss.low > 0.0 else "not surely better"
        reasons.append(f"its predictions are {word}: log-loss differs by {loss}")
    if found.accuracy.difference.low < -rules.max_accuracy_loss:
        reasons.append(f"it may guess fewer right: accuracy differs by {found.accuracy.difference}")
    if _exceeds(found.calibration_error.difference, rules.max_calibration_loss):
        reasons.append(f"it is less honest about its certainty: {found.calibration_error.difference}")
    if _exceeds(found.harm.difference, rules.max_harm):
        reasons.append(f"more people are predicted worse than without knowing them: {found.harm.difference}")
    worst = max(found.groups, key=lambda one: one.candidate.mean, default=None)
    worst_before = max((one.in_service.mean for one in found.groups), default=0.0)
    if worst is not None and worst.candidate.mean - worst_before > rules.max_group_loss:
        reasons.append(f"the worst group loses: {worst.candidate} after {worst_before:.4f}")
    if _exceeds(found.worst_tenth.difference, rules.max_group_loss):
        reasons.append(f"the people predicted worst lose: {found.worst_tenth.difference}")
    if found.update_ms[0] > max(rules.max_update_ms, 2.0 * found.update_ms[1]):
        reasons.append(f"learning from feedback takes {found.update_ms[0]:.1f} ms after {found.update_ms[1]:.1f} ms")
    return tuple(reasons)


def decide_served(found: ServedComparison, rules: Rules) -> tuple[str, ...]:
    """Return why a candidate must not serve, from what simulated people were served with it."""
    reasons = []
    gain = found.gain.difference
    if gain.high < 0.0 or gain.mean < -rules.max_gain_loss:
        reasons.append(f"simulated people are served worse after {found.k} pieces of feedback: {gain}")
    if found.harmed[0] - found.harmed[1] > rules.max_served_harm:
        reasons.append(
            f"more of them are served worse than the base: {found.harmed[0]:.0%} after {found.harmed[1]:.0%}"
        )
    if found.latency_s[0] > rules.max_slowdown * found.latency_s[1]:
        reasons.append(f"answers take {found.latency_s[0]:.2f} s after {found.latency_s[1]:.2f} s (median)")
    return tuple(reasons)


def _exceeds(difference: Interval, tolerated: float) -> bool:
    return difference.mean > tolerated and difference.low > 0.0
