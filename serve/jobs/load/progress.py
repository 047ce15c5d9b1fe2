"""What a long run has found so far, said again and again, so that a killed one leaves it. Knows nothing of figures."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def repeated(say: Callable[[float], None], period_s: float) -> AsyncIterator[None]:
    """Call `say` with the seconds since entering, every `period_s`, while inside; what it raises is raised at the end.

    It is called in a thread of its own, beside what goes on inside.
    """
    begin = time.perf_counter()

    async def repeat() -> None:
        while True:
            await asyncio.sleep(period_s)
            await asyncio.to_thread(say, time.perf_counter() - begin)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def replaced(path: Path, text: str) -> None:
    """Write a file in one step: whoever reads it, or kills the writer, finds the old text or the new one."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text)
    os.replace(beside, path)
