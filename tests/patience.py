"""Waiting in tests: for what shows that something happened, and as long as a very slow machine may need.

A wait costs nothing when all is well, so that no limit here is tight; what is waited for must not hold before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE_S = 120.0


async def until(what: Callable[[], Awaitable[bool] | bool]) -> None:
    """Wait until something in another task, thread or process is so; TimeoutError if it does not become so."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = what()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


def wait_until(what: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait without a loop."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not become so within {timeout_s} s")
        time.sleep(0.02)
