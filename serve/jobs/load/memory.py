"""Memory of a server's whole process tree over time, and how much it grows. Linux; knows nothing of the load.

Resident sizes are added up, so what processes share counts once for each: the same at both ends of a comparison.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import psutil

REPLICA = re.compile(r"ServeReplica:\w+:(\w+)")


@dataclass(frozen=True, slots=True)
class Reading:
    """Resident bytes at one time."""

    at_s: float
    by_process: dict[str, int] = field(default_factory=dict)  # processes of one name added up

    @property
    def total(self) -> int:
        """All processes together."""
        return sum(self.by_process.values())


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory after warm-up: the medians of the first and of the last tenth of the time."""

    first_bytes: float
    last_bytes: float

    @property
    def percent(self) -> float:
        """How much more there is at the end."""
        return 100.0 * (self.last_bytes / self.first_bytes - 1.0)


def read_memory(pid: int, at_s: float) -> Reading:
    """Read a process and all below it; those that end meanwhile are left out."""
    sizes: dict[str, int] = {}
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            name = process_name(process.name(), process.cmdline())
            sizes[name] = sizes.get(name, 0) + process.memory_info().rss
    return Reading(at_s, sizes)


def process_name(name: str, command: Sequence[str]) -> str:
    """Name a process for people: a Ray Serve replica by its deployment, others by their program."""
    replica = REPLICA.search(" ".join(command))
    if replica:
        return replica[1]
    if "serve" in command or any(part.endswith("/palate") for part in command[:2]):
        return "launcher"
    return command[0].partition(".")[0] if command and command[0].startswith("ray::") else name  # not what it does now


def growth(readings: Sequence[Reading], warm_up_s: float, name: str | None = None) -> Growth:
    """Compare the end with the time right after warm-up, for one process name or all.

    Raises:
        ValueError: nothing was read after warm-up.
    """
    after = [one for one in readings if one.at_s >= warm_up_s]
    if len(after) < 2:
        raise ValueError("there are no two readings after warm-up: read more often, or hold the load for longer")
    sizes = [one.total if name is None else one.by_process.get(name, 0) for one in after]
    share = max(1, len(sizes) // 10)
    return Growth(float(np.median(sizes[:share])), float(np.median(sizes[-share:])))


@asynccontextmanager
async def watched(pid: int | None, period_s: float) -> AsyncIterator[list[Reading]]:
    """Read a process tree again and again while inside; without a pid nothing is read."""
    readings: list[Reading] = []
    begin = time.perf_counter()

    async def watch(root: int) -> None:
        while True:
            readings.append(await asyncio.to_thread(read_memory, root, time.perf_counter() - begin))
            await asyncio.sleep(period_s)

    task = None if pid is None else asyncio.create_task(watch(pid))
    try:
        yield readings
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
