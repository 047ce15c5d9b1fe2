"""One server process that speaks HTTP without Ray, for tests that kill it.

Processes are forked from one that has imported everything, so that a restart takes no time.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import uvicorn

from tests.serve.api.people import running


async def serve_until_killed(port: int, folder: Path, store_url: str) -> None:
    """Serve until SIGTERM."""
    async with running(folder, store={"url": store_url, "timeout_s": 1.0}, users={"index": False}) as palate:
        await uvicorn.Server(uvicorn.Config(palate.app, port=port, log_level="error", access_log=False)).serve()


def main(port: int, folder: Path, store_url: str) -> None:
    asyncio.run(serve_until_killed(port, folder, store_url))


def spawn(port: int, folder: Path, store_url: str) -> ForkServerProcess:
    """Start a server process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.serve.replica"])
    process = context.Process(target=main, args=(port, folder, store_url))
    process.start()
    return process
