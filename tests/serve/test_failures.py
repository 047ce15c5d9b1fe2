"""Failures that stay small: a store that hangs, a full disk, a clock that jumps, people who mean harm."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.api.application import create_app
from serve.api.context import ApiContext
from serve.artifacts.registry import Registry, usable_artifact
from serve.artifacts.storage import save
from serve.config import Config, Secrets
from serve.engines.scripted_engine import ScriptedEngine
from serve.errors import ConfigurationError
from serve.home import Home
from serve.launcher import serve_forever
from serve.memory import open_memory
from serve.metrics import Metrics
from serve.service import LocalService
from tests.patience import until
from tests.ports import free_port
from tests.serve.api.people import MODEL, Palate, running
from tests.serve.artifacts.test_storage import manifest_of
from tests.serve.artifacts_for_tests import make_artifact
from tests.user_store.redis_server import RedisServer
from user_store.latent_snapshot import load_snapshot

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
        async with running(tmp_path, store={"url": redis.url, "timeout_s": 1.0}) as palate:
            people = palate.memory.people
            await palate.say(**COMPARE, user="ann", value=1)
            assert redis.process is not None
            redis.process.send_signal(signal.SIGSTOP)
            people._pause_s = 3_600.0  # of a second or less on a machine of any speed
            first = await palate.ask()
            assert (first["palate"]["reason"], first["palate"]["degraded"]) == ("degraded", "store")
            assert first["palate"]["overhead_ms"]["routing"] >= 900
            before = _num_reads(palate)
            assert (await palate.ask("bob"))["palate"]["degraded"] == "store"
            assert _num_reads(palate) == before  # nobody waits: the read is not even tried
            refused = await palate.say(503, **COMPARE, user="ann", value=0)
            assert refused["error"]["code"] == "store_unavailable"
            redis.process.send_signal(signal.SIGCONT)
            people._closed_until, people._pause_s = 0.0, 0.01

            async def is_personal() -> bool:
                return (await palate.ask())["palate"]["personalized"] is True

            async def is_taken() -> bool:
                body = {**COMPARE, "user": "ann", "value": 0}
                return (await palate.client.post("/v1/feedback", json=body)).status_code == 200

            await until(is_personal)
            await until(is_taken)
    finally:
        redis.stop()


def _num_reads(palate: Palate) -> float:
    """Count the reads of people that the store was asked for."""
    name = 'palate_store_seconds_count{call="get_state"}'
    lines = palate.context.metrics.render().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@asynccontextmanager
async def slow_line(port: int, delay_s: float) -> AsyncIterator[int]:
    """Listen on another port and pass everything on to `port`, each way late."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65_536):
                    await asyncio.sleep(delay_s)
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    lines = set[asyncio.Task[None]]()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        lines.update(
            {asyncio.create_task(pass_on(reader, far_writer)), asyncio.create_task(pass_on(far_reader, writer))}
        )

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for line in lines:
        line.cancel()
    await asyncio.gather(*lines, return_exceptions=True)


@pytest.mark.redis
async def test_a_slow_redis_makes_answers_later_and_no_worse(redis_binary: str, tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    redis = RedisServer(redis_binary, folder)
    redis.start()
    try:
        async with (
            slow_line(redis.port, 0.05) as port,
            running(tmp_path, store={"url": f"redis://127.0.0.1:{port}", "timeout_s": 60.0}) as palate,
        ):
            said = [await palate.say(**COMPARE, user="ann", value=1) for _ in range(3)]
            before = _num_reads(palate)
            answer = await palate.ask()
            assert answer["palate"]["personalized"]
            assert answer["palate"]["overhead_ms"]["routing"] >= 100  # there and back
            assert _num_reads(palate) == before + 1
            listed = await palate.see("/v1/feedback?user=ann")
            assert [event["id"] for event in listed["data"]] == [receipt["id"] for receipt in said]
    finally:
        redis.stop()


@pytest.mark.parametrize("loss", ["gone", "cut short", "nonsense"])
async def test_a_lost_index_is_built_anew(loss: str, tmp_path: Path) -> None:
    async with running(tmp_path) as palate:
        for user in ("ann", "bob"):
            await palate.say(**COMPARE, user=user, value=1)
    async with running(tmp_path) as palate:
        snapshot = await _saved_snapshot(palate)
    match loss:
        case "gone":
            snapshot.unlink()
        case "cut short":
            snapshot.write_bytes(snapshot.read_bytes()[:-9])
        case _:
            snapshot.write_bytes(b"nonsense")
    async with running(tmp_path) as palate:
        assert (await palate.ask())["palate"]["personalized"]  # answers do not need it
        await _saved_snapshot(palate)
        seen = await palate.see("/v1/users/ann/neighbors")
        assert [row["user"] for row in seen["data"]] == ["bob"]


async def _saved_snapshot(palate: Palate) -> Path:
    """Wait until the index was built and saved: a damaged file may still hold the names."""
    current = palate.memory.people.in_service.current
    index, snapshot = current.index, current.snapshot
    assert index is not None
    assert snapshot is not None

    def has_bob() -> bool:
        shards = load_snapshot(snapshot, index.population) or {}
        return any("bob" in shard.users for shard in shards.values())

    await until(has_bob)
    return snapshot


def damaged_home(folder: Path) -> Home:
    """Make a home whose published artifact was changed afterwards."""
    home = Home(folder).create()
    artifact = make_artifact("mine")
    save(artifact, manifest_of(artifact), home.artifacts)
    Registry(home).publish("mine")
    (home.artifacts / "mine" / "population.json").write_text("{}")
    return home


async def test_a_damaged_artifact_leaves_base_answers_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, metrics = damaged_home(tmp_path), Metrics()
    config = Config.model_validate({"model": {"id": MODEL}})
    engine = ScriptedEngine(MODEL)
    await engine.start()
    service = LocalService(engine)
    memory = await open_memory(config, Secrets(), home, service, metrics)
    assert memory is None
    assert "palate artifacts rollback" in caplog.text
    transport = httpx.ASGITransport(create_app(ApiContext(service, config, Secrets(), metrics)))
    async with httpx.AsyncClient(transport=transport, base_url="http://palate") as client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "user": "ann"}
        answer = await client.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["palate"]["reason"]) == (200, "no_artifact")
        assert (await client.post("/v1/feedback", json={**COMPARE, "user": "ann", "value": 1})).status_code == 503
        assert 'palate_artifact_info{version="damaged"} 1.0' in (await client.get("/metrics")).text
    Registry(home).rollback(MODEL)
    assert usable_artifact(config, home) == (None, False)  # nothing ships for this model: as before the publication


def test_a_server_is_not_started_with_a_damaged_artifact(tmp_path: Path) -> None:
    config = Config.model_validate({"model": {"id": MODEL}, "http": {"port": free_port()}})
    with pytest.raises(ConfigurationError, match=r"population\.json.*rollback"):
        serve_forever(config, damaged_home(tmp_path))


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
