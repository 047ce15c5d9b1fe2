"""A store that goes away and comes back: answers go on, feedback is refused or waits, nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from serve.config import Config, Secrets
from serve.errors import ConfigurationError
from serve.home import Home
from serve.memory import StoreAddress
from tests.patience import until
from tests.serve.api.people import MODEL, Palate, running
from tests.user_store.redis_server import RedisServer
from user_store.errors import StoreUnavailable
from user_store.latent_index import LatentIndex
from user_store.types import UserKey

ANN = UserKey("default", "ann")
PATIENT = 30.0  # of calls to a Redis that runs: a busy machine is no store that is away
COMPARE: dict[str, Any] = {"kind": "comparison", "user": "ann", "prompt": "hi", "candidates": ["a b", "there what"]}


@pytest.fixture
def redis(redis_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(redis_binary, folder, {"appendonly": "yes", "appendfsync": "always"})
    server.start()
    yield server
    server.stop()


async def num_events(palate: Palate) -> int:
    return (await palate.memory.people.store.get_state(ANN)).position.seq


@pytest.mark.redis
async def test_without_the_store_answers_go_on_and_feedback_is_refused(redis: RedisServer, tmp_path: Path) -> None:
    async with running(tmp_path, store={"url": redis.url, "timeout_s": PATIENT}) as palate:
        answer = await palate.ask()
        await palate.say(**COMPARE, value=1)
        redis.kill()
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "user": "ann"}
        for stream in (False, True):
            response = await palate.client.post("/v1/chat/completions", json={**body, "stream": stream})
            assert (response.status_code, response.headers["X-Palate-Degraded"]) == (200, "store")
        answered = await palate.ask()
        assert (answered["palate"]["personalized"], answered["palate"]["degraded"]) == (False, "store")
        refused = await palate.client.post("/v1/feedback", json={"kind": "thumb", "completion_id": answer["id"]})
        assert refused.status_code == 400  # what is wrong with it is said first
        calls: list[tuple[str, str, dict[str, Any] | None]] = [
            ("POST", "/v1/feedback", {"kind": "thumb", "completion_id": answer["id"], "value": 1}),
            ("POST", "/v1/feedback", {**COMPARE, "value": 1}),
            ("GET", "/v1/feedback", None),
            ("GET", "/v1/users/ann", None),
            ("DELETE", "/v1/users/ann", None),
        ]
        for method, path, sent in calls:
            refused = await palate.client.request(method, path, json=sent)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "store_unavailable"
            assert int(refused.headers["Retry-After"]) > 0
        metrics = (await palate.client.get("/metrics")).text
        assert 'palate_store_failures_total{path="/v1/feedback"} 3.0' in metrics
        assert 'palate_answers_total{reason="degraded"} 3.0' in metrics
        redis.start()
        await until(lambda: _is_personalized(palate))
        await palate.say(**COMPARE, value=1)
        assert await num_events(palate) == 2


async def _is_personalized(palate: Palate) -> bool:
    return (await palate.ask())["palate"]["personalized"] is True


@pytest.mark.redis
async def test_spooled_feedback_is_acknowledged_and_delivered_exactly_once(redis: RedisServer, tmp_path: Path) -> None:
    async with running(tmp_path, store={"url": redis.url, "timeout_s": PATIENT, "spool": True}) as palate:
        answer = await palate.ask()
        redis.kill()
        thumb = {"kind": "thumb", "completion_id": answer["id"], "value": 1}
        await palate.say(503, **thumb)  # whose it is cannot be looked up
        said = [
            await palate.say(**thumb, user="ann"),
            await palate.say(**COMPARE, value=1, idempotency_key="k"),
            await palate.say(**COMPARE, value=1, idempotency_key="k"),
        ]
        assert [one["posterior_version"] for one in said] == [None, None, None]
        assert [one["duplicate"] for one in said] == [False, False, True]
        redis.start()
        await until(lambda: _counts(palate, 2))
        listed = (await palate.see("/v1/feedback?user=ann"))["data"]
        assert [row["id"] for row in listed] == [said[0]["id"], said[1]["id"]]
        assert not any(row["pending"] for row in listed)
        assert (await palate.see("/v1/users/ann"))["num_events"] == 2


async def _counts(palate: Palate, count: int) -> bool:
    """Whether so many events are delivered and learned from: the second comes after the first."""
    seen = await palate.client.get("/v1/users/ann")
    return seen.status_code == 200 and seen.json()["num_counting"] == count


@pytest.mark.redis
async def test_what_waits_in_the_spool_outlives_its_process(redis: RedisServer, tmp_path: Path) -> None:
    store = {"url": redis.url, "timeout_s": PATIENT, "spool": True}
    async with running(tmp_path, store=store) as palate:
        redis.kill()
        await palate.say(**COMPARE, value=1)
    redis.start()
    async with running(tmp_path, store=store) as palate:
        await until(lambda: _counts(palate, 1))


@pytest.mark.redis
async def test_a_store_that_is_away_at_the_start_is_found_later(redis: RedisServer, tmp_path: Path) -> None:
    redis.kill()
    async with running(tmp_path, store={"url": redis.url, "timeout_s": PATIENT}) as palate:
        assert (await palate.ask())["palate"]["degraded"] == "store"
        await palate.say(503, **COMPARE, value=1)
        redis.start()
        await until(lambda: _is_open(palate))
        await palate.say(**COMPARE, value=1)


async def _is_open(palate: Palate) -> bool:
    return palate.memory.people.is_open


@pytest.mark.redis
async def test_two_replicas_serve_the_same_people(redis: RedisServer, tmp_path: Path) -> None:
    store = {"url": redis.url, "timeout_s": PATIENT}
    async with running(tmp_path / "a", store=store) as one, running(tmp_path / "b", store=store) as other:
        answer = await one.ask()
        await other.say(kind="thumb", completion_id=answer["id"], value=-1)
        assert (await one.ask())["palate"]["personalized"] is True
        bodies = [{**COMPARE, "value": i % 2} for i in range(30)]
        await asyncio.gather(*((one, other)[i % 2].say(**body) for i, body in enumerate(bodies)))
        seen = await one.see("/v1/users/ann")
        assert (seen["num_events"], seen["num_counting"]) == (31, 31)


async def test_a_posterior_that_lags_behind_its_log_is_mended_by_the_next_request(tmp_path: Path) -> None:
    async with running(tmp_path) as palate:
        await palate.say(**COMPARE, value=1)
        people = palate.memory.people
        (event,) = await people.store.read_log(ANN)
        crashed = event.__class__(
            id="fb-late", key=ANN, kind=event.kind, created_at=event.created_at, value=1, evidence=event.evidence
        )
        await people.store.append_event(crashed)  # and then the process died
        assert not (await people.store.get_state(ANN)).is_current
        await palate.ask()
        await until(lambda: _is_current(palate))
        assert (await palate.see("/v1/users/ann"))["num_counting"] == 2


async def _is_current(palate: Palate) -> bool:
    return (await palate.memory.people.store.get_state(ANN)).is_current


async def test_the_index_is_loaded_built_and_saved(tmp_path: Path) -> None:
    async with running(tmp_path) as palate:
        await palate.say(**COMPARE, value=1)
        await palate.say(**{**COMPARE, "user": "bob"}, value=1)
    async with running(tmp_path) as palate:
        await until(lambda: _knows_bob(palate))
        snapshot = palate.memory.people.snapshot
        assert snapshot is not None
        await until(lambda: b"bob" in snapshot.read_bytes() if snapshot.exists() else False)


async def _knows_bob(palate: Palate) -> bool:
    seen = await palate.see("/v1/users/ann/neighbors")
    return [row["user"] for row in seen["data"]] == ["bob"]


async def test_an_index_that_could_not_be_built_is_built_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures, build = [StoreUnavailable("away")], LatentIndex.build

    async def failing(index: LatentIndex, *args: Any) -> int:
        if failures:
            raise failures.pop()
        return await build(index, *args)

    monkeypatch.setattr(LatentIndex, "build", failing)
    monkeypatch.setattr("serve.memory.INDEX_RETRY_S", 0.05)
    async with running(tmp_path) as palate:  # whose index is refreshed every hour
        snapshot = palate.memory.people.snapshot
        assert snapshot is not None
        await until(snapshot.exists)


async def test_a_cancellation_that_gets_lost_holds_no_end_up(tmp_path: Path) -> None:
    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600.0)
        await asyncio.sleep(3_600.0)

    async with running(tmp_path) as palate:
        palate.memory.run(stubborn)
        await asyncio.sleep(0)


async def test_a_server_without_an_index_has_no_neighbours(tmp_path: Path) -> None:
    async with running(tmp_path, users={"index": False}) as palate:
        await palate.say(**COMPARE, value=1)
        assert (await palate.see("/v1/users/ann/neighbors"))["data"] == []


def test_the_address_comes_from_the_file_then_the_environment_then_the_home(tmp_path: Path) -> None:
    secrets = Secrets(store_url=SecretStr("redis://env"), store_username="u", store_password=SecretStr("p"))
    named = Config.model_validate({"store": {"url": "redis://file", "timeout_s": 3}})
    home = Home(tmp_path)
    assert StoreAddress.of(named, secrets, home).url == "redis://file"
    address = StoreAddress.of(Config(), secrets, home)
    assert (address.url, address.options.username, address.options.password) == ("redis://env", "u", "p")
    assert StoreAddress.of(Config(), Secrets(), home).url == f"sqlite://{tmp_path}/palate.db"


@pytest.mark.parametrize("url", ["mysql://x", "sqlite://"])
async def test_a_url_that_no_store_understands_stops_the_start(url: str) -> None:
    with pytest.raises(ValueError, match="must"):
        Config.model_validate({"store": {"url": url}})
    with pytest.raises(ConfigurationError, match="URL"):
        await StoreAddress(url, StoreAddress.of(Config(), Secrets(), Home(Path("/x"))).options).open()


async def test_a_newer_layout_stops_the_start(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "palate.db")
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    address = StoreAddress.of(Config(), Secrets(), Home(tmp_path))
    with pytest.raises(ConfigurationError, match="cannot be used"):
        await address.open()
