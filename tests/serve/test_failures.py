"""Failures that stay small: a store that hangs, a full disk, a clock that jumps, people who mean harm."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.serve.api.people import MODEL, Palate, running
from tests.user_store.redis_server import RedisServer

DAY_S = 86_400.0
COMPARE: dict[str, Any] = {"kind": "comparison", "prompt": "hi", "candidates": ["a b c", "there what clear another"]}


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Let no file of this process grow, as on a full disk: every file there is at its largest already."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.redis
async def test_a_redis_that_hangs_costs_one_timeout_and_then_nothing(redis_binary: str, tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    redis = RedisServer(redis_binary, folder)
    redis.start()
    try:
        async with running(tmp_path, store={"url": redis.url, "timeout_s": 0.5}) as palate:
            await palate.say(**COMPARE, user="ann", value=1)
            assert redis.process is not None
            redis.process.send_signal(signal.SIGSTOP)
            begin = time.perf_counter()
            first = await palate.ask()
            waited_s = time.perf_counter() - begin
            assert (first["palate"]["reason"], first["palate"]["degraded"]) == ("degraded", "store")
            assert 0.4 < waited_s < 5.0
            # For the next second nobody waits: the read is not even tried.
            assert (await palate.ask("bob"))["palate"]["overhead_ms"]["routing"] < 100
            refused = await palate.say(503, **COMPARE, user="ann", value=0)
            assert refused["error"]["code"] == "store_unavailable"
            redis.process.send_signal(signal.SIGCONT)
            deadline = time.monotonic() + 20
            while (await palate.ask())["palate"]["reason"] == "degraded":
                assert time.monotonic() < deadline
            assert (await palate.say(**COMPARE, user="ann", value=0))["posterior_version"]
    finally:
        redis.stop()


async def test_a_full_disk_refuses_feedback_and_loses_none(tmp_path: Path) -> None:
    async with running(tmp_path, users={"index": False}) as palate:
        kept = [await palate.say(**COMPARE, user="ann", value=1) for _ in range(3)]
        with full_disk(tmp_path):
            refused = await palate.say(503, **COMPARE, user="ann", value=1)
            assert refused["error"]["code"] == "store_unavailable"
            body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "user": "ann"}
            assert (await palate.client.post("/v1/chat/completions", json=body)).status_code == 200
            await palate.context.pipeline.shutdown()
        again = await palate.say(**COMPARE, user="ann", value=1)
        listed = await palate.see("/v1/feedback?user=ann")
        assert [event["id"] for event in listed["data"]] == [receipt["id"] for receipt in (*kept, again)]


async def test_a_clock_that_jumps_loses_no_feedback(tmp_path: Path) -> None:
    async with running(tmp_path) as palate:
        answer = await palate.ask()
        palate.memory.people.clock = lambda: time.time() - 400 * DAY_S  # back: completions are not expired
        behind = await palate.say(kind="thumb", completion_id=answer["id"], value=1)
        palate.memory.people.clock = lambda: time.time() + 5 * DAY_S
        ahead = await palate.say(**COMPARE, user="ann", value=1)
        palate.memory.people.clock = lambda: time.time() + 40 * DAY_S  # forward: they are, and that is said
        gone = await palate.say(410, kind="thumb", completion_id=answer["id"], value=-1)
        assert gone["error"]["code"] == "completion_expired"
        palate.memory.people.clock = time.time
        assert (await palate.ask())["palate"]["personalized"]
        listed = await palate.see("/v1/feedback?user=ann")
        assert [event["id"] for event in listed["data"]] == [behind["id"], ahead["id"]]


async def _answers(palate: Palate) -> list[Any]:
    """Ask as ann in ways that may differ, and leave out what always does."""
    answers = []
    for seed in range(4):
        answer = await palate.ask("ann", f"Tell me more, {seed}. [[tokens: 30]]", seed=seed, max_tokens=30)
        told = {key: value for key, value in answer["palate"].items() if key != "overhead_ms"}
        answers.append((answer["choices"], answer["usage"], told))
    return answers


async def test_hostile_people_change_nobody_else_s_answers(tmp_path: Path) -> None:
    async with running(tmp_path) as palate:
        for value in (1, 1, 0):
            await palate.say(**COMPARE, user="ann", value=value)
        before = await _answers(palate)
        assert all(told["personalized"] for _, _, told in before)
        for number in range(20):
            for _ in range(5):
                await palate.say(**COMPARE, user=f"hostile-{number}", value=number % 2)
            answer = await palate.ask(f"hostile-{number}")
            await palate.say(kind="thumb", completion_id=answer["id"], value=-1)
        stolen = (await palate.ask("ann"))["id"]
        refused = await palate.say(404, kind="thumb", completion_id=stolen, value=-1, user="hostile-1")
        assert refused["error"]["code"] == "not_found"
        assert await _answers(palate) == before
