"""SIGKILL loses nothing that was acknowledged, and several processes lose nothing of each other's.

Writers are processes that acknowledge on a pipe. On SQLite the writers are killed, on Redis the server (with
`appendfsync always`). A killed process shows what the operating system had been given, not what a disk holds after a
power cut: for that the stores rely on fsync before each acknowledgement.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.user_store.crash_writer import nth_event
from tests.user_store.models import ADDING, fold, start
from tests.user_store.redis_server import RedisServer
from tests.user_store.samples import NOW
from user_store.folding import catch_up, effective
from user_store.open import open_store
from user_store.types import UserKey

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Plan:
    """How much is written by how many, and how often something dies."""

    num_processes: int
    writers_per_process: int
    num_events: int  # per writer
    num_people: int
    num_kills: int

    @property
    def total(self) -> int:
        return self.num_processes * self.writers_per_process * self.num_events


@dataclass
class Writers:
    """The writer processes and what they acknowledged."""

    url: str
    plan: Plan
    acknowledged: list[str] = field(default_factory=list)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> "Writers":
        self._read_fd, self._write_fd = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        for index in range(self.plan.num_processes):
            self.spawn(index)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        os.close(self._write_fd)
        self._reader.join()

    def _read(self) -> None:
        with os.fdopen(self._read_fd, "r") as pipe:
            self.acknowledged.extend(line.strip() for line in pipe)

    def spawn(self, index: int) -> None:
        """Start a process; each of its writers goes on with its first unacknowledged event."""
        plan = self.plan
        numbers = range(index * plan.writers_per_process, (index + 1) * plan.writers_per_process)
        done = Counter(event_id.partition("-")[0] for event_id in set(self.acknowledged))
        arguments = [self.url, str(self._write_fd), str(plan.num_events), str(plan.num_people)]
        arguments += [f"{number}={done[f'w{number}']}" for number in numbers]
        self.processes[index] = subprocess.Popen(
            [sys.executable, "-m", "tests.user_store.crash_writer", *arguments],
            cwd=ROOT,
            pass_fds=(self._write_fd,),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def wait_for(self, count: int) -> None:
        """Wait until so many events are acknowledged; a writer that failed fails the test."""
        deadline = time.monotonic() + 240
        while len(set(self.acknowledged)) < count:
            assert time.monotonic() < deadline, f"{len(self.acknowledged)} of {count} after 240 s"
            assert not [code for code in map(subprocess.Popen.poll, self.processes.values()) if code not in {None, 0}]
            time.sleep(0.005)

    def kill_one(self, index: int) -> None:
        """SIGKILL a process and start it again; what of its last words is not read yet, its successor repeats."""
        process = self.processes[index]
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.spawn(index)

    def finish(self) -> None:
        """Wait for all to end well."""
        assert [process.wait(timeout=240) for process in self.processes.values()] == [0] * len(self.processes)


def run_through(url: str, plan: Plan, kill: Callable[[Writers, int], None]) -> None:
    """Write everything, killing at evenly spaced moments."""
    with Writers(url, plan) as writers:
        for number in range(plan.num_kills):
            writers.wait_for((number + 1) * plan.total // (plan.num_kills + 1))
            kill(writers, number)
        writers.wait_for(plan.total)
        writers.finish()


async def check_whole(url: str, plan: Plan) -> None:
    """Every acknowledged event is there once, numbered without gaps, and its posterior has seen it once."""
    store = await open_store(url)
    num_writers = plan.num_processes * plan.writers_per_process
    expected = {f"w{writer}-{number}" for writer in range(num_writers) for number in range(plan.num_events)}
    found: list[str] = []
    for person in range(plan.num_people):
        key = UserKey("acme", f"person-{person}")
        log = await store.read_log(key)
        assert [one.seq for one in log] == list(range(1, len(log) + 1))
        found += [one.id for one in log]
        state = await catch_up(store, key, ADDING, now=NOW)
        assert state.posterior is not None
        assert int(state.posterior.arrays["count"]) == len(log)
        rebuilt = fold(start(), effective(log))
        for name, array in rebuilt.items():
            stored = state.posterior.arrays[name].astype(np.float64)
            np.testing.assert_allclose(stored, array.astype(np.float64), atol=1e-6)
    await store.close()
    assert len(found) == len(expected)
    assert set(found) == expected


QUICK = Plan(num_processes=2, writers_per_process=4, num_events=20, num_people=3, num_kills=2)
FULL = Plan(num_processes=4, writers_per_process=4, num_events=125, num_people=5, num_kills=20)
PLANS = [pytest.param(QUICK, id="quick"), pytest.param(FULL, id="full", marks=pytest.mark.slow)]


@pytest.mark.parametrize("plan", PLANS)
async def test_sqlite_survives_killed_writers(plan: Plan, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/palate.db"
    dice = random.Random(1)
    run_through(url, plan, lambda writers, _: writers.kill_one(dice.randrange(plan.num_processes)))
    await check_whole(url, plan)


@pytest.mark.redis
@pytest.mark.parametrize("plan", PLANS)
async def test_redis_survives_being_killed(plan: Plan, redis_binary: str, tmp_path: Path) -> None:
    server = RedisServer(redis_binary, tmp_path, {"appendonly": "yes", "appendfsync": "always"})
    server.start()

    def kill(_: Writers, __: int) -> None:
        server.kill()
        server.start()

    try:
        run_through(server.url, plan, kill)
        await check_whole(server.url, plan)
    finally:
        server.stop()


SHARED = Plan(num_processes=3, writers_per_process=2, num_events=15, num_people=1, num_kills=0)
REPLICAS = Plan(num_processes=2, writers_per_process=4, num_events=1250, num_people=1, num_kills=0)
SHARED_PLANS = [pytest.param(SHARED, id="quick"), pytest.param(REPLICAS, id="10000", marks=pytest.mark.slow)]


@pytest.mark.parametrize("plan", SHARED_PLANS)
async def test_processes_that_teach_one_person_lose_no_update(plan: Plan, store_url: str) -> None:
    run_through(store_url, plan, lambda *_: None)
    await check_whole(store_url, plan)


def count_together(url: str, num_processes: int, increments: int) -> None:
    """Run counting processes that begin at the same moment."""
    arguments = [sys.executable, "-m", "tests.user_store.counting_writer", url, str(increments)]
    processes = [
        subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(num_processes)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0] * num_processes


async def test_processes_that_compare_and_set_lose_no_count(store_url: str) -> None:
    await asyncio.to_thread(count_together, store_url, 3, 60)
    store = await open_store(store_url)
    state = await store.get_state(UserKey("acme", "ann"))
    await store.close()
    assert state.posterior is not None
    assert (int(state.posterior.arrays["count"]), state.posterior.version) == (180, 180)


def test_a_repeated_event_is_the_same_event() -> None:
    one, other = nth_event(3, 7, 5), nth_event(3, 7, 5)
    assert (one.id, one.key, one.idempotency_key) == (other.id, other.key, other.idempotency_key)
