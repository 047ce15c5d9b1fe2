"""Judgements on their way to a running server, which measures the texts: bounded, patient, safe to repeat.

A judgement sent twice counts once, by its idempotency key. What the server refuses is counted with the reason; what it
cannot take now is sent again. Knows no file formats.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import httpx

from serve.errors import EngineUnavailable
from serve.jobs.importing.judgement import Judgement

MAX_ATTEMPTS = 8
FIRST_PAUSE_S = 0.5
AGAIN = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)


@dataclass(slots=True)
class Tally:
    """What became of the judgements."""

    num_new: int = 0
    num_duplicates: int = 0
    people: set[str] = field(default_factory=set)
    refusals: Counter[str] = field(default_factory=Counter)  # reason -> how many


async def send_all(
    http: httpx.AsyncClient,
    judgements: Iterable[Judgement],
    concurrency: int,
    progress: Callable[[int], object],
    pause_s: float = FIRST_PAUSE_S,
) -> Tally:
    """Send everything; at most `concurrency` at once. EngineUnavailable after MAX_ATTEMPTS for one judgement."""
    tally, waiting = Tally(), set[asyncio.Task[None]]()

    async def one(judgement: Judgement) -> None:
        reply = await _send(http, judgement, pause_s)
        if reply.status_code == httpx.codes.OK:
            is_duplicate = bool(reply.json()["duplicate"])
            tally.num_duplicates += is_duplicate
            tally.num_new += not is_duplicate
            tally.people.add(judgement.user)
        else:
            tally.refusals[f"{reply.status_code} {_message(reply)}"] += 1
        progress(1)

    try:
        for judgement in judgements:
            waiting.add(asyncio.create_task(one(judgement)))
            if len(waiting) >= concurrency:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        await asyncio.gather(*waiting)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return tally


async def _send(http: httpx.AsyncClient, judgement: Judgement, pause_s: float) -> httpx.Response:
    reason = ""
    for attempt in range(MAX_ATTEMPTS):
        try:
            reply = await http.post("/v1/feedback", json=judgement.body())
        except httpx.TransportError as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            if reply.status_code not in AGAIN:
                return reply
            reason = f"{reply.status_code} {_message(reply)}"
        await asyncio.sleep(pause_s * 2**attempt)
    raise EngineUnavailable(f"The server does not take feedback: {reason}. What was sent stays; run it again to go on.")


def _message(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return reply.text[:200]
