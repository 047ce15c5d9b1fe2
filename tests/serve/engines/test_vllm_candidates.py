"""Arms over vLLM's calls, with something in its place that says what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from serve.engines.protocol import ARM_FAILED, Delta, Output
from serve.engines.scripted_words import scripted_feature_space
from serve.engines.vllm_candidates import Forget, PreparedArm, VllmCandidateRun
from serve.engines.worker_messages import Reading
from serve.errors import EngineUnavailable, GenerationFailed

UNREADABLE = "<tool>"  # what the parser fails on


@dataclass
class _Step:
    outputs: list[Any]
    finished: bool = False
    prompt_token_ids: list[int] = field(default_factory=lambda: [1, 2])
    num_cached_tokens: int = 0
    kv_transfer_params: dict[str, Any] | None = None


class _Llm:
    """Each arm's words; an exception among them is raised, and the last word ends it."""

    def __init__(self, *arms: Sequence[str | Exception]) -> None:
        self._arms = arms

    async def generate(self, engine_input: int, *_args: Any, **_kwargs: Any) -> AsyncIterator[_Step]:
        words = self._arms[engine_input]
        for number, word in enumerate(words, start=1):
            await asyncio.sleep(0)
            if isinstance(word, Exception):
                raise word
            is_last = number == len(words)
            reading = Reading("s", number, np.ones(4, np.float32))
            yield _Step([(word, is_last)], is_last, kv_transfer_params={"palate_states": reading.to_message()})

    async def collective_rpc(self, *_args: Any, **_kwargs: Any) -> list[Any]:
        return [None]


def run_of(*arms: Sequence[str | Exception], forget: Forget | None = None) -> VllmCandidateRun:
    def to_delta(arm: int) -> Any:
        def translate(said: tuple[str, bool]) -> Delta:
            word, is_last = said
            if word == UNREADABLE:
                raise KeyError(word)
            return Delta(arm, word, 1, "stop" if is_last else None)

        return translate

    prepared = [PreparedArm(f"r.{arm}", arm, None, None, to_delta(arm)) for arm in range(len(arms))]
    space = scripted_feature_space("m")
    return VllmCandidateRun(_Llm(*arms), prepared, space, contextlib.nullcontext, forget or (lambda ids: None))


async def ends_of(run: VllmCandidateRun) -> dict[int, str]:
    try:
        outputs: list[Output] = [output async for output in run.outputs()]
    finally:
        await run.close()
    return {delta.index: delta.finish_reason for out in outputs for delta in out.deltas if delta.finish_reason}


@pytest.mark.parametrize("fault", [UNREADABLE, KeyError("x"), GenerationFailed("no more")])
async def test_an_arm_that_breaks_off_says_so_whatever_broke_it(fault: str | Exception) -> None:
    assert await ends_of(run_of(["a", "b"], ["a", fault, "b"])) == {0: "stop", 1: ARM_FAILED}
    with pytest.raises(GenerationFailed):
        await ends_of(run_of(["a", fault, "b"]))


async def test_when_no_arm_is_complete_the_failure_is_raised() -> None:
    run = run_of([EngineUnavailable("gone")], ["a"] * 50)

    async def abort_the_other_one() -> None:
        async for output in run.outputs():
            if any(delta.finish_reason == ARM_FAILED for delta in output.deltas):
                await run.abort([1])

    with pytest.raises(EngineUnavailable):
        await abort_the_other_one()
    await run.close()


async def test_states_are_freed_in_the_background_whatever_became_of_the_arms() -> None:
    freed: list[str] = []
    run = run_of(["a", "b"], ["a", KeyError("x")], forget=freed.extend)
    await ends_of(run)
    assert freed == ["r.0", "r.1"]
