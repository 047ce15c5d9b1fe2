"""Spool files of one machine: each process takes one for itself and delivers those that dead processes left.

A lock beside each file says whether its process lives. Knows nothing about what is in them.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import logging
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from user_store.errors import StoreError
from user_store.spool import Accept, Delivery, open_spool
from user_store.types import AppendReceipt, FeedbackEvent, UserKey

logger = logging.getLogger("palate.spooling")


class SpoolFolder:
    """This process's spool, and what others left in the same folder."""

    def __init__(self, folder: Path) -> None:
        """Take the first file that no living process holds. Blocks for milliseconds; OSError if the disk refuses."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._lock, self._path = next(filter(None, map(self._claim, itertools.count())))
        self._spool = open_spool(self._path)
        self._delivering = asyncio.Lock()

    async def add(self, event: FeedbackEvent) -> AppendReceipt:
        """Keep an event; on disk before this returns."""
        return await self._spool.add(event)

    async def size(self) -> int:
        """Count what waits in this process's file."""
        return await self._spool.size()

    async def deliver(self, accept: Accept) -> Delivery:
        """Hand over everything, dead processes' too. Stops where the store fails again."""
        async with self._delivering:
            delivery = await self._spool.deliver(accept)
            for lock, path in self._orphans():
                with lock:
                    found = await self._deliver_orphan(path, accept)
                delivery.taken += found.taken
                delivery.refused |= found.refused
            return delivery

    async def _deliver_orphan(self, path: Path, accept: Accept) -> Delivery:
        try:
            orphan = await asyncio.to_thread(open_spool, path)
        except StoreError as error:
            logger.error("%s cannot be delivered: %s", path.name, type(error).__name__)
            return Delivery()
        try:
            return await orphan.deliver(accept)
        finally:
            await orphan.close()

    async def forget(self, key: UserKey) -> int:
        """Drop what waits of one person, in every file of this folder; return how many events it was.

        Raises StoreError if a file cannot be opened: what is in it would come back.
        """
        async with self._delivering:
            num_events = await self._spool.forget(key)
            for path in sorted(self._folder.glob("spool-*.db")):
                if path == self._path:
                    continue
                other = await asyncio.to_thread(open_spool, path)  # its process may live: SQLite keeps them apart
                try:
                    num_events += await other.forget(key)
                finally:
                    await other.close()
            return num_events

    async def close(self) -> None:
        """Let go of the file; what waits stays in it."""
        await self._spool.close()
        self._lock.close()

    def _orphans(self) -> Iterator[tuple[TextIOWrapper, Path]]:
        for path in sorted(self._folder.glob("spool-*.db")):
            claimed = self._claim(int(path.stem.rsplit("-", 1)[1]))
            if claimed is not None:
                yield claimed

    def _claim(self, number: int) -> tuple[TextIOWrapper, Path] | None:
        lock = (self._folder / f"spool-{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return lock, self._folder / f"spool-{number}.db"
