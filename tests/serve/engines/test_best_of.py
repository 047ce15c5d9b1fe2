"""Choosing among arms that break off or leave, on runs that are written out step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from router.mixture import Mixture
from serve.engines.best_of import best_of
from serve.engines.protocol import (
    ARM_FAILED,
    BestOf,
    CandidateRun,
    Delta,
    EngineArm,
    Features,
    GenerationRequest,
    Output,
    Readout,
    Sampling,
    Verdict,
)
from serve.engines.scripted_engine import ScriptedEngine
from serve.errors import GenerationFailed


class _WrittenRun:
    """Steps as they are given; an aborted arm says no more."""

    def __init__(self, steps: Sequence[Sequence[Delta]], values: Sequence[float]) -> None:
        self._steps = steps
        self._values = values
        self.aborted: set[int] = set()

    async def outputs(self) -> AsyncIterator[Output]:
        for step in self._steps:
            deltas = [delta for delta in step if delta.index not in self.aborted]
            if deltas:
                yield Output(3, 0, deltas)

    async def features(self, arms: Sequence[int], mark: int | None = None) -> Features:
        return Features("s", (1,) * len(arms), np.array([[self._values[arm]] for arm in arms], np.float32))

    async def abort(self, arms: Sequence[int]) -> None:
        self.aborted |= set(arms)


class _WrittenEngine(ScriptedEngine):
    def __init__(self, run: _WrittenRun) -> None:
        super().__init__("m")
        self._run = run

    @asynccontextmanager
    async def candidates(self, request: GenerationRequest) -> AsyncIterator[CandidateRun]:
        yield self._run


def word(arm: int, number: int, finish_reason: str | None = None, num_tokens: int = 1) -> Delta:
    ids = [1_000 * arm + 100 * number + token for token in range(num_tokens)]
    return Delta(arm, f"w{arm}.{number} ", num_tokens, finish_reason, token_ids=ids)


def failed(arm: int) -> Delta:
    return Delta(arm, finish_reason=ARM_FAILED)


def judge(**rules: Any) -> BestOf:
    """Somebody who surely likes the only feature."""
    taste = Mixture(np.ones(1), np.full((1, 1), 10.0), np.full((1, 1, 1), 1e-6))
    return dataclasses.replace(BestOf(Readout(np.eye(1), np.zeros(1), np.ones(1)), (taste,)), **rules)


async def answer(
    steps: Sequence[Sequence[Delta]], values: Sequence[float], rules: BestOf, *, is_streaming: bool = False
) -> tuple[list[Delta], Verdict]:
    arms = (EngineArm(),) * len(values)
    request = GenerationRequest("r", Sampling(), text="x", arms=arms, best_of=rules, is_streaming=is_streaming)
    outputs = [output async for output in best_of(_WrittenEngine(_WrittenRun(steps, values)), request)]
    verdict = outputs[-1].verdict
    assert verdict is not None
    return [delta for output in outputs for delta in output.deltas], verdict


STREAMED_OR_WHOLE = pytest.mark.parametrize("is_streaming", [True, False])


@STREAMED_OR_WHOLE
@pytest.mark.parametrize("begun", [[], [word(0, 0)]])
async def test_an_asked_for_answer_that_breaks_off_is_an_error(begun: list[Delta], is_streaming: bool) -> None:
    steps = [[*begun, word(1, 0)], [failed(0), word(1, 1, "stop")]]
    with pytest.raises(GenerationFailed):
        await answer(steps, (0.0, 0.0), BestOf(num_best=2), is_streaming=is_streaming)


@STREAMED_OR_WHOLE
@pytest.mark.parametrize("rules", [BestOf(), judge()])
async def test_an_answer_that_just_ends_is_no_complete_one(rules: BestOf, is_streaming: bool) -> None:
    with pytest.raises(GenerationFailed):
        await answer([[word(0, 0)]], (0.0,), rules, is_streaming=is_streaming)


HALVED = [[word(0, 0), word(1, 0), word(2, 0, "stop")], [word(0, 1), word(1, 1)], [failed(1)]]


async def test_a_winner_that_breaks_off_in_its_stream_is_an_error() -> None:
    with pytest.raises(GenerationFailed):
        await answer(HALVED, (0.0, 1.0, 0.5), judge(checkpoints=(1,)), is_streaming=True)


async def test_a_loser_that_was_done_stands_in_for_a_winner_nobody_saw() -> None:
    (whole,), verdict = await answer(HALVED, (0.0, 1.0, 0.5), judge(checkpoints=(1,)))
    assert (whole.text, whole.finish_reason, verdict.order) == ("w2.0 ", "stop", [2])


async def test_arms_that_break_off_before_the_choice_leave_the_rest() -> None:
    steps = [[word(0, 0), word(1, 0)], [word(0, 1, "stop"), failed(1)]]
    for is_streaming in (True, False):
        deltas, verdict = await answer(steps, (0.0, 1.0), judge(), is_streaming=is_streaming)
        assert ("".join(delta.text for delta in deltas), verdict.order) == ("w0.0 w0.1 ", [0])
        assert deltas[-1].finish_reason == "stop"


async def test_fewer_answers_than_were_asked_for_are_an_error() -> None:
    steps = [[word(0, 0, "stop"), word(1, 0), word(2, 0)], [failed(1), failed(2)]]
    with pytest.raises(GenerationFailed):
        await answer(steps, (0.0, 1.0, 2.0), judge(num_best=2))


BASE_LEAVES = pytest.mark.parametrize(
    ("base", "checkpoints"),
    [([failed(0)], ()), ([word(0, 1)], (20,))],  # it breaks off; it loses at a checkpoint
)


@BASE_LEAVES
async def test_guards_without_the_base_know_no_order_of_arms(base: list[Delta], checkpoints: tuple[int, ...]) -> None:
    """A long answer beside a short one weighs the same, whichever of the two has the first place."""
    told: list[dict[int, float]] = []
    for long, short in ((1, 2), (2, 1)):
        steps = [
            [word(arm, 0, num_tokens=20) for arm in range(4)],
            [*base, word(long, 1, "stop", num_tokens=90), word(short, 1, "stop"), word(3, 1, "stop")],
        ]
        values = {0: 0.0, long: 1.0, short: 0.99, 3: 0.5}
        rules = judge(checkpoints=(*checkpoints, *(200 + 100 * more for more in range(len(checkpoints)))))
        _, verdict = await answer(steps, [values[arm] for arm in range(4)], rules)
        told.append({role: verdict.penalties[arm] for role, arm in (("long", long), ("short", short))})  # type: ignore[misc]
        assert verdict.order == [long]
    assert told[0] == told[1]


async def test_a_base_that_was_done_before_it_left_still_says_what_is_long() -> None:
    steps = [
        [word(0, 0, "stop", num_tokens=20), *(word(arm, 0, num_tokens=20) for arm in (1, 2, 3))],
        [word(1, 1, "stop", num_tokens=90), word(2, 1, "stop"), word(3, 1, "stop")],
    ]
    _, verdict = await answer(steps, (0.0, 1.0, 0.9, 0.5), judge(checkpoints=(20, 300)))
    assert verdict.penalties[1] == pytest.approx(0.5 * np.log(110 / 40))
    assert verdict.penalties[2] == 0.0
