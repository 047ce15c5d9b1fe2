"""Requests as people send them, and what came of each: chat for somebody or nobody, streamed or whole, and thumbs.

`capacity` finds what a server sustains in a closed loop (somebody always waits); `hold` sends an open one (people come
whether or not there is room), with exponential gaps. Knows nothing of processes and reports.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

ACCEPTED = "200"
REFUSED = "429"
TIMEOUT_S = 900.0
NUM_COMPARISONS = 3  # what everybody says before the load, so that they are known
PREPARING = 4  # people at a time
MIN_GAIN = 1.05  # twice as many at a time must do at least so much more
STEADY_AFTER = 1 / 3  # of a step, before its answers count


@dataclass(frozen=True, slots=True)
class Mix:
    """What people ask for."""

    people: int = 50
    personal: float = 0.5  # share of requests that name a person
    streaming: float = 0.5
    thumbs: float = 0.3  # share of accepted personal answers that are judged at once
    max_tokens: int = 32
    prompt: str = "Tell me something about the number {number}, in plain words."


@dataclass(frozen=True, slots=True)
class Observation:
    """What came of one request."""

    at_s: float  # sent, since the load began
    kind: str  # `personal` or `plain`, then `stream` or `whole`; or `thumb`
    status: str  # `200`, or what went wrong instead: `429 queue_full`, `stream generation_failed`, `broken ReadError`
    seconds: float
    first_s: float | None = None  # to a stream's first text

    @property
    def is_accepted(self) -> bool:
        """Whether it was answered to the end."""
        return self.status == ACCEPTED

    @property
    def is_refused(self) -> bool:
        """Whether it was turned away as it should be."""
        return self.status.startswith(REFUSED)


class Traffic:
    """Sends requests to one server and keeps what came of them in `observations`."""

    def __init__(self, http: httpx.AsyncClient, model: str, mix: Mix, seed: int) -> None:
        self._http = http
        self._model = model
        self._mix = mix
        self._rng = np.random.default_rng(seed)
        self._begin = time.perf_counter()
        self._number = 0
        self.observations: list[Observation] = []

    async def prepare(self) -> None:
        """Let everybody say what they like, so that their answers are personal. Raises httpx.HTTPError."""
        turns = asyncio.Semaphore(PREPARING)

        async def introduce(person: str) -> None:
            async with turns:
                for number in range(NUM_COMPARISONS):
                    body = {
                        "kind": "comparison",
                        "user": person,
                        "prompt": self._mix.prompt.format(number=number),
                        "candidates": ["It is small.", "What a number! Let me tell you all that I know about it."],
                        "value": int(self._rng.integers(2)),
                    }
                    (await self._http.post("/v1/feedback", json=body)).raise_for_status()

        await asyncio.gather(*(introduce(self._person(number)) for number in range(self._mix.people)))

    async def capacity(self, max_concurrency: int, step_s: float, tell: Callable[[int, float], None]) -> float:
        """Find the most answers a second, by doubling how many wait at a time until that gains no more.

        Args:
            max_concurrency: The most that may wait at a time.
            step_s: How long each number of waiting ones is held.
            tell: Hears each number and the answers a second it had.
        """
        workers: list[asyncio.Task[None]] = []
        is_over = asyncio.Event()
        best = 0.0

        async def keep_asking() -> None:
            while not is_over.is_set():
                await self._ask()

        try:
            concurrency = 1
            while concurrency <= max_concurrency:
                workers += [asyncio.create_task(keep_asking()) for _ in range(concurrency - len(workers))]
                await asyncio.sleep(STEADY_AFTER * step_s)
                before, steady_at = self._num_answers(), time.perf_counter()
                await asyncio.sleep((1 - STEADY_AFTER) * step_s)
                rate = (self._num_answers() - before) / (time.perf_counter() - steady_at)
                tell(concurrency, rate)
                if rate < MIN_GAIN * best:
                    break
                best, concurrency = max(best, rate), 2 * concurrency
        finally:
            is_over.set()
            await asyncio.gather(*workers)
        return best

    async def hold(self, rate: float, seconds: float) -> list[Observation]:
        """Send `rate` requests a second on average, answered or not, and wait for the last answer."""
        self.observations, self._begin = [], time.perf_counter()
        asked: set[asyncio.Task[None]] = set()
        due_s = 0.0
        while True:
            due_s += float(self._rng.exponential(1.0 / rate))
            if due_s >= seconds:
                break
            await asyncio.sleep(max(0.0, due_s - self._now_s()))
            task = asyncio.create_task(self._ask())
            asked.add(task)
            task.add_done_callback(asked.discard)
        await asyncio.gather(*asked)
        return self.observations

    async def _ask(self) -> None:
        """Send one request of the mix, and now and then a thumb for its answer."""
        personal, streaming, judged = self._rng.random(3) < (self._mix.personal, self._mix.streaming, self._mix.thumbs)
        person = self._person(int(self._rng.integers(self._mix.people))) if personal else None
        self._number += 1
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": self._mix.prompt.format(number=self._number)}],
            "max_tokens": self._mix.max_tokens,
            "stream": bool(streaming),
        }
        if person is not None:
            body["user"] = person
        kind = f"{'personal' if personal else 'plain'} {'stream' if streaming else 'whole'}"
        completion_id = await self._observed(kind, self._stream if streaming else self._whole, body)
        if completion_id is not None and personal and judged:
            thumb = {
                "kind": "thumb",
                "user": person,
                "completion_id": completion_id,
                "value": int(self._rng.choice([-1, 1])),
            }
            await self._observed("thumb", self._judge, thumb)

    async def _observed(
        self,
        kind: str,
        send: Callable[[dict[str, Any]], Awaitable[tuple[str, str, float | None]]],
        body: dict[str, Any],
    ) -> str | None:
        """Keep what came of a request; give the answer's id if there is one."""
        begin, at_s = time.perf_counter(), self._now_s()
        try:
            status, completion_id, first_at = await send(body)
        except httpx.HTTPError as error:
            status, completion_id, first_at = f"broken {type(error).__name__}", "", None
        first_s = None if first_at is None else first_at - begin
        self.observations.append(Observation(at_s, kind, status, time.perf_counter() - begin, first_s))
        return completion_id if status == ACCEPTED else None

    async def _whole(self, body: dict[str, Any]) -> tuple[str, str, float | None]:
        response = await self._http.post("/v1/chat/completions", json=body)
        status = _status(response)
        return status, response.json()["id"] if status == ACCEPTED else "", None

    async def _judge(self, body: dict[str, Any]) -> tuple[str, str, float | None]:
        return _status(await self._http.post("/v1/feedback", json=body)), "", None

    async def _stream(self, body: dict[str, Any]) -> tuple[str, str, float | None]:
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                await response.aread()
                return _status(response), "", None
            completion_id, first_at, status = "", None, "stream cut off"
            async for event in _events(response):
                if event is None:
                    status = ACCEPTED
                    continue
                if "error" in event:
                    return f"stream {event['error'].get('code')}", "", first_at
                completion_id = event["id"]
                if first_at is None and any(choice["delta"].get("content") for choice in event["choices"]):
                    first_at = time.perf_counter()
            return status, completion_id, first_at

    def _num_answers(self) -> int:
        return sum(1 for one in self.observations if one.is_accepted and one.kind != "thumb")

    def _person(self, number: int) -> str:
        return f"load-{number}"

    def _now_s(self) -> float:
        return time.perf_counter() - self._begin


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any] | None]:
    """Yield a stream's events, and None for its proper end."""
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            yield None
        elif line.startswith("data: {"):
            event: dict[str, Any] = json.loads(line.removeprefix("data: "))
            yield event


def _status(response: httpx.Response) -> str:
    if response.status_code == httpx.codes.OK:
        return ACCEPTED
    try:
        return f"{response.status_code} {response.json()['error']['code']}"
    except (ValueError, KeyError, TypeError):
        return str(response.status_code)
