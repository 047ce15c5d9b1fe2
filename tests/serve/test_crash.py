"""SIGKILL of the server loses no acknowledged feedback, and two servers lose nothing of each other's.

Writers speak HTTP and repeat what was not acknowledged with the same idempotency key, as a client must. What the stores
themselves survive is tested in `tests/user_store/test_crash.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serve.artifacts.scripted import scripted_artifact
from serve.preferences import Preferences
from tests.patience import PATIENCE_S
from tests.ports import free_port
from tests.serve.api.people import MODEL
from tests.serve.replica import spawn
from tests.user_store.redis_server import RedisServer
from tests.user_store.samples import NOW
from user_store.folding import catch_up, effective
from user_store.open import open_store
from user_store.types import UserKey

TEXTS = ["a b c", "there what clear another", "one of so", "use it then", "say that like"]


@dataclass(frozen=True)
class Plan:
    """How much is written by how many about how many, and how often something dies."""

    num_writers: int
    num_events: int  # per writer
    num_people: int
    num_kills: int

    @property
    def total(self) -> int:
        return self.num_writers * self.num_events


@dataclass
class Replica:
    """A server process, started anew after each kill on the same port."""

    port: int
    folder: Path
    store_url: str
    process: ForkServerProcess | None = None

    def start(self) -> None:
        self.process = spawn(self.port, self.folder, self.store_url)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.join()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.join(PATIENCE_S)
            assert self.process.exitcode is not None
            self.process.close()


@contextmanager
def replicas(folder: Path, store_url: str, count: int) -> Iterator[list[Replica]]:
    """Run servers on one store."""
    running = [Replica(free_port(), folder / f"replica-{i}", store_url) for i in range(count)]
    try:
        for replica in running:
            replica.start()
        yield running
    finally:
        for replica in running:
            replica.stop()


@dataclass
class Writers:
    """Clients that insist, and what was acknowledged to them."""

    plan: Plan
    ports: list[int]
    acknowledged: dict[str, str] = field(default_factory=dict)  # idempotency key to id

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        async with (
            asyncio.timeout(540),
            httpx.AsyncClient(timeout=10.0, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for writer in range(self.plan.num_writers):
                group.create_task(self._write(client, writer))
            yield

    async def _write(self, client: httpx.AsyncClient, writer: int) -> None:
        for number in range(self.plan.num_events):
            port = self.ports[(writer + number) % len(self.ports)]
            key = f"w{writer}-{number}"
            pair = [TEXTS[(writer + number) % 5], TEXTS[(writer + 2 * number + 1) % 5]]
            body: dict[str, Any] = {"kind": "comparison", "prompt": "hi", "candidates": pair, "idempotency_key": key}
            body |= {"user": self.person(writer, number), "value": (writer * number) % 2}
            said = await self._insist(client, f"http://127.0.0.1:{port}/v1/feedback", body)
            self.acknowledged[key] = said["id"]

    def person(self, writer: int, number: int) -> str:
        return f"person-{(writer + number) % self.plan.num_people}"

    async def _insist(self, client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> dict[str, Any]:
        while True:
            try:
                response = await client.post(url, json=body)
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            if response.status_code == 200:
                said: dict[str, Any] = response.json()
                return said
            assert response.status_code == 503, response.text
            await asyncio.sleep(0.05)

    async def wait_for(self, count: int) -> None:
        while len(self.acknowledged) < count:  # noqa: ASYNC110 - several count up
            await asyncio.sleep(0.01)


async def run_through(plan: Plan, servers: list[Replica], kill: Callable[[int], None]) -> Writers:
    """Write everything, killing at evenly spaced moments."""
    writers = Writers(plan, [server.port for server in servers])
    async with writers.writing():
        for number in range(plan.num_kills):
            await writers.wait_for((number + 1) * plan.total // (plan.num_kills + 1))
            await asyncio.to_thread(kill, number)
    return writers


async def check_whole(url: str, writers: Writers) -> None:
    """Every acknowledged event is there once, and stored posteriors are what the log gives."""
    model = Preferences(scripted_artifact(MODEL)).model
    store = await open_store(url)
    found: dict[str | None, str] = {}
    num_events = 0
    for person in range(writers.plan.num_people):
        key = UserKey("default", f"person-{person}")
        log = await store.read_log(key)
        num_events += len(log)
        found |= {event.idempotency_key: event.id for event in log}
        state = await catch_up(store, key, model, now=NOW)
        assert state.posterior is not None
        rebuilt = model.fold(model.start(), effective(log))
        assert sorted(rebuilt) == sorted(state.posterior.arrays)
        for name, array in rebuilt.items():
            stored = state.posterior.arrays[name].astype(np.float64)
            np.testing.assert_allclose(stored, array.astype(np.float64), atol=1e-6, rtol=1e-6, err_msg=name)
    await store.close()
    assert len(writers.acknowledged) == num_events == writers.plan.total
    assert found == writers.acknowledged


QUICK = Plan(num_writers=4, num_events=12, num_people=3, num_kills=2)
FULL = Plan(num_writers=16, num_events=125, num_people=8, num_kills=20)
PLANS = [pytest.param(QUICK, id="quick"), pytest.param(FULL, id="full", marks=pytest.mark.slow)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plan", PLANS)
async def test_a_killed_server_loses_nothing_on_sqlite(plan: Plan, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/palate.db"
    with replicas(tmp_path, url, 1) as (server,):

        def kill(_: int) -> None:
            server.kill()
            server.start()

        writers = await run_through(plan, [server], kill)
    await check_whole(url, writers)


@pytest.mark.redis
@pytest.mark.timeout(600)
@pytest.mark.parametrize("plan", PLANS)
async def test_killed_servers_lose_nothing_on_redis(plan: Plan, redis_binary: str, tmp_path: Path) -> None:
    redis = RedisServer(redis_binary, tmp_path, {"appendonly": "yes", "appendfsync": "always"})
    redis.start()
    try:
        with replicas(tmp_path, redis.url, 1) as (server,):

            def kill(number: int) -> None:
                """By turns the server and what it stores in."""
                victim: Replica | RedisServer = redis if number % 2 else server
                victim.kill()
                victim.start()

            writers = await run_through(plan, [server], kill)
        await check_whole(redis.url, writers)
    finally:
        redis.stop()


SHARED = Plan(num_writers=4, num_events=12, num_people=1, num_kills=0)
LONG = Plan(num_writers=16, num_events=625, num_people=1, num_kills=0)


@pytest.mark.redis
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", ["sqlite", "redis"])
@pytest.mark.parametrize(
    "plan", [pytest.param(SHARED, id="quick"), pytest.param(LONG, id="10000", marks=pytest.mark.slow)]
)
async def test_two_servers_that_teach_one_person_lose_no_update(
    plan: Plan, backend: str, redis_binary: str, tmp_path: Path
) -> None:
    redis = RedisServer(redis_binary, tmp_path)
    redis.start()
    url = redis.url if backend == "redis" else f"sqlite://{tmp_path}/palate.db"
    try:
        with replicas(tmp_path, url, 2) as servers:
            writers = await run_through(plan, servers, lambda _: None)
        await check_whole(url, writers)
    finally:
        redis.stop()
