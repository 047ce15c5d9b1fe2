"""An adapter wins, loses or costs too much: each by answers made for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serve.jobs.adapt.judging import Answers, Limits, decide, judge
from serve.jobs.adapt.people import Judges

P, S, D, J = 30, 2, 3, 12


def answers(shift: float, seed: int = 0, logprob: float = -1.5, tokens: float = 60.0) -> Answers:
    """Answers whose first feature is `shift` deviations above the base's."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(P, S, D))
    features[:, :, 0] += shift
    plain = np.zeros((P, S))
    return Answers(features, np.full((P, S), logprob), np.full((P, S), tokens), plain, plain)


def judges(direction: float = 1.0) -> Judges:
    rng = np.random.default_rng(5)
    weights = 0.1 * rng.normal(size=(J, D))
    weights[:, 0] += direction
    return Judges(weights, np.ones(J), "held out")


BASE = answers(0.0)


def test_what_people_like_better_wins() -> None:
    found = judge(BASE, answers(1.0, seed=1), judges())
    assert found.win_rate.low > 0.6
    assert found.gain.mean == pytest.approx(1.0, abs=0.25)
    assert found.gain.low < found.gain.mean < found.gain.high
    assert decide(found, Limits()) == ()


def test_the_loser_is_told_why() -> None:
    found = judge(BASE, answers(1.0, seed=1), judges(-1.0))
    reasons = decide(found, Limits())
    assert "loses against the base model" in reasons[0]
    assert "does not surely gain" in reasons[1]


def test_no_difference_does_not_win() -> None:
    assert "does not surely win" in decide(judge(BASE, answers(0.0, seed=1), judges()), Limits())[0]
    same = judge(BASE, BASE, judges())
    assert (same.win_rate.mean, same.win_rate.low, same.win_rate.high) == (0.5, 0.5, 0.5)
    assert same.gain.mean == 0.0
    assert decide(same, Limits())


def test_whoever_counts_more_decides() -> None:
    split = judges()
    split.weights[: J // 2, 0] = -1.0
    counted = replace(split, shares=np.repeat([0.01, 1.0], J // 2))
    assert judge(BASE, answers(1.0, seed=1), counted).win_rate.mean > 0.6


def test_choosing_among_the_bases_answers_is_shown_beside_it() -> None:
    # the better of two normal draws lies 1/√π = .564 deviations above their mean
    many = replace(BASE, features=np.random.default_rng(2).normal(size=(2000, 2, D)))
    plain = np.zeros((2000, 2))
    many = Answers(many.features, plain, plain, plain, plain)
    assert judge(many, many, judges()).best_of_base == pytest.approx(0.564, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"logprobs": np.full((P, S), -2.2)}, "costs fluency"),
        ({"num_tokens": np.full((P, S), 10.0)}, "have 10 tokens where the base's have 60"),
        ({"num_tokens": np.full((P, S), 200.0)}, "have 200 tokens"),
        ({"degenerate": np.tile([0.0, 1.0], (P, 1))}, "repeat themselves"),
        ({"refusals": np.tile([0.0, 1.0], (P, 1))}, "refuses"),
    ],
)
def test_a_winner_that_costs_too_much_is_refused(changes: dict[str, np.ndarray], reason: str) -> None:
    (said,) = decide(judge(BASE, replace(answers(1.0, seed=1), **changes), judges()), Limits())
    assert reason in said


def test_few_prompts_say_nothing() -> None:
    few = [
        Answers(*(getattr(one, name)[:5] for name in ("features", "logprobs", "num_tokens", "degenerate", "refusals")))
        for one in (BASE, answers(2.0, seed=1))
    ]
    assert "too little is known" in decide(judge(few[0], few[1], judges()), Limits())[0]


def test_the_same_seed_says_the_same() -> None:
    one, again, other = (judge(BASE, answers(0.5, seed=1), judges(), seed) for seed in (0, 0, 1))
    assert one == again
    assert one.gain.mean == other.gain.mean
    assert one.gain.low != other.gain.low
