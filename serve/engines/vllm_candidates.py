"""The arms of one request inside vLLM: one sequence each, in one continuous batch, merged into one stream of steps.

Every arm has its own steering, adapter and seed; an arm that breaks off does not end the others. Features come from the
worker extension. Knows vLLM's calls, not how requests are rendered (the engine does that) nor how an answer is chosen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.engines.feature_space import FeatureSpace
from serve.engines.protocol import ARM_FAILED, Delta, EngineArm, Features, Output
from serve.engines.steering_request import SteeringRequest
from serve.engines.worker_messages import SENT, Reading, States
from serve.errors import GenerationFailed, PalateError

logger = logging.getLogger("palate.engine")

Translation = Callable[[], AbstractContextManager[None]]
Forget = Callable[[list[str]], None]  # frees the states of sequences, in the background


@dataclass(frozen=True, slots=True)
class PreparedArm:
    """One arm, ready for vLLM."""

    id: str
    engine_input: Any
    params: Any
    lora: Any
    to_delta: Callable[[Any], Delta]  # from vLLM's completion; the index is the arm's


@dataclass(frozen=True, slots=True)
class _Ended:
    arm: int
    error: PalateError | None = None


class VllmCandidateRun:
    """Runs the arms; see `CandidateRun`."""

    def __init__(
        self, llm: Any, arms: Sequence[PreparedArm], space: FeatureSpace, translation: Translation, forget: Forget
    ) -> None:
        """Take the arms; inside of `translation`, vLLM's errors become ours; `forget` frees states without waiting."""
        self._llm = llm
        self._arms = arms
        self._space = space
        self._translation = translation
        self._forget = forget
        self._queue: asyncio.Queue[Output | _Ended] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._readings: list[dict[int, Reading]] = [{} for _ in arms]  # by count, as they came with the steps
        self._settled: set[int] = set()  # arms whose last reading is the last one there will be

    async def outputs(self) -> AsyncIterator[Output]:
        """Yield steps of all arms together; see the protocol."""
        self._tasks = [asyncio.create_task(self._run(index)) for index in range(len(self._arms))]
        running, is_any_complete = set(range(len(self._arms))), False
        failure: PalateError | None = None  # the last one
        while running:
            news = [await self._queue.get()]
            while not self._queue.empty():
                news.append(self._queue.get_nowait())
            steps = [item for item in news if isinstance(item, Output)]
            ends = [item for item in news if isinstance(item, _Ended)]
            deltas = [delta for step in steps for delta in step.deltas]
            is_any_complete = is_any_complete or any(delta.finish_reason is not None for delta in deltas)
            running -= {end.arm for end in ends}
            for end in ends:
                if end.error is not None:
                    failure = end.error
                    deltas.append(Delta(end.arm, finish_reason=ARM_FAILED))
            if failure is not None and not running and not is_any_complete:
                raise failure
            if deltas:
                num_prompt_tokens = max((step.num_prompt_tokens for step in steps), default=0)
                yield Output(num_prompt_tokens, max((step.num_cached_tokens for step in steps), default=0), deltas)

    async def features(self, arms: Sequence[int], mark: int | None = None) -> Features:
        """Give the arms' features, as they came with their tokens or else by asking; see the protocol."""
        readings = {arm: self._reading(arm, mark) for arm in arms}
        missing = [arm for arm, reading in readings.items() if reading is None]
        if missing:
            with self._translation():
                asked = await ask_readings(self._llm, [self._arms[arm].id for arm in missing], mark)
            readings |= dict(zip(missing, asked, strict=True))
        return joined_readings([readings[arm] for arm in arms], self._space)

    async def abort(self, arms: Sequence[int]) -> None:
        """Stop some arms."""
        self._settled.update(arms)
        for arm in arms:
            self._tasks[arm].cancel()
        await asyncio.gather(*(self._tasks[arm] for arm in arms), return_exceptions=True)

    async def close(self) -> None:
        """Abort what still runs; the states are forgotten without waiting for a step of the engine."""
        await self.abort(range(len(self._tasks)))
        self._forget([arm.id for arm in self._arms])

    async def _run(self, index: int) -> None:
        arm = self._arms[index]
        error: PalateError | None = None
        try:
            with self._translation():
                async for step in self._llm.generate(arm.engine_input, arm.params, arm.id, lora_request=arm.lora):
                    deltas = [arm.to_delta(completion) for completion in step.outputs]
                    if (reading := reading_of(step)) is not None:
                        self._readings[index][reading.count] = reading
                        if step.finished:  # not so behind a stop string, which vLLM finds too late for the worker
                            self._settled.add(index)
                    self._queue.put_nowait(
                        Output(len(step.prompt_token_ids or ()), step.num_cached_tokens or 0, deltas)
                    )
        except PalateError as broken:
            error = broken
        except Exception as broken:  # such as a tool parser's; nobody awaits this task, so it would go unnoticed
            logger.error("arm %s broke off", arm.id, exc_info=broken)
            error = GenerationFailed("The engine failed on this request.")
        finally:
            self._queue.put_nowait(_Ended(index, error))

    def _reading(self, arm: int, mark: int | None) -> Reading | None:
        """Return what an arm's features are at a mark, or at last, if that came with its steps."""
        readings = self._readings[arm]
        if mark is not None and mark in readings:
            return readings[mark]
        return readings[max(readings)] if readings and arm in self._settled else None


def arm_arguments(arm: EngineArm, marks: tuple[int, ...]) -> dict[str, Any]:
    """Give the sampling parameters' `extra_args` of an arm."""
    return SteeringRequest(
        arm.coeffs, arm.dose, pool=True, marks=marks, repetition_penalty=arm.repetition_penalty, tilt=arm.tilt
    ).to_extra_args()


def reading_of(step: Any) -> Reading | None:
    """Return the states that came with one step of vLLM's."""
    message = (step.kv_transfer_params or {}).get(SENT)
    return None if message is None else Reading.from_message(message)


def joined_readings(readings: Sequence[Reading | None], space: FeatureSpace) -> Features:
    """Put sequences' readings together; of an empty sequence there is none."""
    nothing = np.full(space.num_features, np.nan, dtype=np.float32)
    version = next((reading.version for reading in readings if reading is not None), space.id)
    rows = [nothing if reading is None or not reading.count else reading.values for reading in readings]
    return Features(version, tuple(reading.count if reading else 0 for reading in readings), np.stack(rows))


async def ask_readings(llm: Any, ids: Sequence[str], mark: int | None = None) -> list[Reading]:
    """Read the features of sequences in one call; of one that is unknown, nothing."""
    replies = await llm.collective_rpc("read_states", args=(list(ids), mark))
    states = States.from_message(replies[0])
    nothing = np.zeros(0, dtype=np.float32)
    return [Reading(states.version, states.counts.get(id_, 0), states.values.get(id_, nothing)) for id_ in ids]


async def forget_states(llm: Any, ids: Sequence[str]) -> None:
    """Free the states of sequences; an engine that is gone has none."""
    with contextlib.suppress(Exception):
        await llm.collective_rpc("free_states", args=(list(ids),))
