"""Each rule by itself: what it lets through and what it stops."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve.jobs.release.comparison import Compared, Comparison, Interval
from serve.jobs.release.deciding import Rules, decide


def compared(candidate: float, in_service: float, spread: float = 0.0) -> Compared:
    def interval(mean: float) -> Interval:
        return Interval(mean, mean - spread, mean + spread)

    return Compared(interval(candidate), interval(in_service), interval(candidate - in_service))


GOOD = Comparison(
    num_people=100,
    num_judgements=1000,
    log_loss=compared(0.5, 0.55, 0.04),
    accuracy=compared(0.75, 0.74, 0.02),
    calibration_error=compared(0.04, 0.03),
    harm=compared(0.2, 0.2),
    worst_tenth=compared(1.0, 1.1),
    groups=(compared(0.4, 0.5), compared(0.7, 0.7)),
    update_ms=(5.0, 4.0),
)


def test_a_better_one_passes() -> None:
    assert decide(GOOD, Rules()) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_people": 19}, "too little is known"),
        ({"num_judgements": 99}, "too little is known"),
        ({"log_loss": compared(0.5, 0.55, 0.06)}, "not surely better"),
        ({"log_loss": compared(0.6, 0.5, 0.01)}, "are worse"),
        ({"accuracy": compared(0.75, 0.76, 0.02)}, "guess fewer right"),
        ({"calibration_error": compared(0.08, 0.05)}, "less honest"),
        ({"harm": compared(0.3, 0.2)}, "worse than without knowing"),
        ({"worst_tenth": compared(1.2, 1.1)}, "predicted worst lose"),
        ({"groups": (compared(0.8, 0.5), compared(0.7, 0.7))}, "the worst group loses"),
        ({"update_ms": (30.0, 4.0)}, "takes 30.0 ms"),
    ],
)
def test_each_rule_stops_what_it_is_for(change: dict[str, object], said: str) -> None:
    reasons = decide(replace(GOOD, **change), Rules())  # type: ignore[arg-type]
    assert len(reasons) == 1
    assert said in reasons[0]


@pytest.mark.parametrize("measure", ["calibration_error", "harm", "worst_tenth"])
def test_what_few_people_say_by_chance_stops_nothing(measure: str) -> None:
    by_chance, surely = ({measure: compared(0.3, 0.2, spread)} for spread in (0.11, 0.09))
    assert decide(replace(GOOD, **by_chance), Rules()) == ()  # type: ignore[arg-type]
    assert len(decide(replace(GOOD, **surely), Rules())) == 1  # type: ignore[arg-type]


def test_a_group_may_lose_while_it_is_not_the_worst() -> None:
    assert decide(replace(GOOD, groups=(compared(0.6, 0.5), compared(0.7, 0.7))), Rules()) == ()
