"""What people send and how it is counted, against a server that is a function."""

from __future__ import annotations

import asyncio
import itertools
import json
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from serve.jobs.load import traffic
from serve.jobs.load.traffic import Mix, Traffic

Answer = Callable[[httpx.Request, dict[str, Any]], httpx.Response]
ids = itertools.count()


class Server(httpx.AsyncBaseTransport):
    """Answers after a while, at most so many at a time, and keeps what it was asked."""

    def __init__(self, answer: Answer, delay_s: float = 0.0, room: int = 1_000) -> None:
        self.answer, self.delay_s, self.room = answer, delay_s, asyncio.Semaphore(room)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(await request.aread())
        self.asked.append((request.url.path, body))
        async with self.room:
            await asyncio.sleep(self.delay_s)
            return self.answer(request, body)


def stream_of(*events: str) -> httpx.Response:
    async def lines() -> AsyncIterator[bytes]:
        for event in events:
            yield f"data: {event}\n\n".encode()

    return httpx.Response(200, content=lines())


def chunk(content: str | None) -> str:
    return json.dumps({"id": f"c-{next(ids)}", "choices": [{"delta": {"content": content}}]})


def kind_answer(_: httpx.Request, body: dict[str, Any]) -> httpx.Response:
    if body.get("stream"):
        return stream_of(chunk(None), chunk("hello"), "[DONE]")
    return httpx.Response(200, json={"id": f"c-{next(ids)}"})


def traffic_to(server: Server, mix: Mix) -> Traffic:
    return Traffic(httpx.AsyncClient(transport=server, base_url="http://palate"), "m", mix, seed=0)


async def test_the_mix_and_the_rate_are_as_asked() -> None:
    server = Server(kind_answer)
    mix = Mix(people=7, personal=0.5, streaming=0.25, thumbs=0.4)
    observations = await traffic_to(server, mix).hold(rate=400.0, seconds=2.0)
    chats = [body for path, body in server.asked if path == "/v1/chat/completions"]
    thumbs = [body for path, body in server.asked if path == "/v1/feedback"]
    # Four standard deviations of a Poisson count, and of shares of it.
    assert 800 - 4 * 800**0.5 < len(chats) < 800 + 4 * 800**0.5
    personal = [body for body in chats if "user" in body]
    assert 0.43 < len(personal) / len(chats) < 0.57
    assert 0.19 < sum(body["stream"] for body in chats) / len(chats) < 0.31
    assert 0.30 < len(thumbs) / len(personal) < 0.50
    assert {body["user"] for body in personal} == {f"load-{number}" for number in range(7)}
    assert len({body["messages"][0]["content"] for body in chats}) == len(chats)
    assert {one.status for one in observations} == {"200"}
    assert {one.kind for one in observations} == {
        *(f"{who} {how}" for who in ("personal", "plain") for how in ("stream", "whole")),
        "thumb",
    }
    assert all((one.first_s is not None) == one.kind.endswith("stream") for one in observations)
    assert len(observations) == len(server.asked)


async def test_everybody_is_made_known_before() -> None:
    server = Server(lambda *_: httpx.Response(200, json={}))
    await traffic_to(server, Mix(people=3)).prepare()
    assert Counter(body["user"] for _, body in server.asked) == {"load-0": 3, "load-1": 3, "load-2": 3}
    failing = Server(lambda *_: httpx.Response(503, json={}))
    with pytest.raises(httpx.HTTPStatusError):
        await traffic_to(failing, Mix(people=1)).prepare()


def broken(request: httpx.Request, _: dict[str, Any]) -> httpx.Response:
    raise httpx.ReadError("gone", request=request)


ENDINGS: dict[str, tuple[float, Answer, str]] = {
    "a full queue": (
        0.0,
        lambda *_: httpx.Response(429, json={"error": {"code": "queue_full"}}),
        "429 queue_full",
    ),
    "no JSON": (0.0, lambda *_: httpx.Response(502, text="bad gateway"), "502"),
    "a broken line": (0.0, broken, "broken ReadError"),
    "a refused stream": (1.0, lambda *_: httpx.Response(503, json={"error": {"code": "x"}}), "503 x"),
    "a stream that breaks off": (1.0, lambda *_: stream_of(chunk("hello")), "stream cut off"),
    "a stream with an error": (
        1.0,
        lambda *_: stream_of(chunk("hello"), '{"error": {"code": "generation_failed"}}'),
        "stream generation_failed",
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_bad_ends_are_told_apart(name: str) -> None:
    streaming, answer, status = ENDINGS[name]
    observations = await traffic_to(Server(answer), Mix(streaming=streaming)).hold(rate=100.0, seconds=0.2)
    assert {one.status for one in observations} == {status}
    assert not any(one.is_accepted for one in observations)
    assert all(one.is_refused == status.startswith("429") for one in observations)


async def test_the_open_loop_does_not_wait_for_answers() -> None:
    observations = await traffic_to(Server(kind_answer, delay_s=0.5), Mix(thumbs=0.0)).hold(rate=200.0, seconds=0.5)
    assert len(observations) > 50  # a closed loop would have sent one
    assert all(one.seconds >= 0.5 for one in observations)


class Selector(selectors.SelectSelector):
    """Lets the time pass that a loop would wait for."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now_s += timeout or 0.0
        return super().select(0)


def test_the_sustained_rate_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four at a time of 20 ms each: 200 a second, reached with four waiting and not passed with eight."""
    selector = Selector()
    loop = asyncio.SelectorEventLoop(selector)
    monkeypatch.setattr(loop, "time", lambda: selector.now_s)
    monkeypatch.setattr(traffic, "time", SimpleNamespace(perf_counter=loop.time))
    steps: list[tuple[int, float]] = []

    async def find() -> float:
        server = Server(kind_answer, delay_s=0.02, room=4)
        return await traffic_to(server, Mix(thumbs=0.0)).capacity(64, 1.0, lambda *step: steps.append(step))

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        rate = runner.run(find())
    assert [concurrency for concurrency, _ in steps] == [1, 2, 4, 8]
    assert [found for _, found in steps] == pytest.approx([50.0, 100.0, 200.0, 200.0], rel=0.05)
    assert rate == max(found for _, found in steps)
