"""A local waiting room for feedback while the shared store is away: durable at once, delivered exactly once later.

Each replica has its own file. Delivery repeats an event until the store acknowledges it; the store recognises
repetitions by id, so a crash between delivery and removal adds nothing twice. Knows nothing about who decides to spool.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from user_store.errors import StoreError, StoreUnavailable
from user_store.sqlite_store import SqliteStore, open_sqlite
from user_store.types import AppendReceipt, FeedbackEvent, UserKey

Accept = Callable[[Sequence[FeedbackEvent]], Awaitable[object]]  # takes one person's events, once more if in doubt


@dataclass(slots=True)
class Delivery:
    """Whose events were taken, and whose wait on for another reason than a store that is away: what it was."""

    taken: list[UserKey] = field(default_factory=list)
    refused: dict[UserKey, str] = field(default_factory=dict)


class Spool:
    """Events on their way to a store. Use one per process and file."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._lock = asyncio.Lock()  # nothing may join a person's queue between its delivery and its removal

    async def add(self, event: FeedbackEvent) -> AppendReceipt:
        """Keep an event; on disk before this returns. Its receipt's position is the spool's, not the store's."""
        async with self._lock:
            return await self._store.append_event(event)

    async def size(self) -> int:
        """Count the events that wait."""
        return sum([len(await self._store.read_log(key)) for key in await self._people()])

    async def deliver(self, accept: Accept) -> Delivery:
        """Hand over everything, person by person. Stops where the store fails again; nobody else holds others up.

        Events whose key was used before, or that were deleted meanwhile, end as the store decides.
        """
        delivery = Delivery()
        for key in await self._people():
            async with self._lock:
                try:
                    if events := await self._store.read_log(key):
                        await accept([replace(event, is_late=True) for event in events])
                    await self._store.delete_user(key)
                except StoreUnavailable:
                    break
                except StoreError as error:
                    delivery.refused[key] = type(error).__name__
                    continue
            delivery.taken.append(key)
        return delivery

    async def forget(self, key: UserKey) -> int:
        """Drop what waits of one person; return how many events it was."""
        async with self._lock:
            return (await self._store.delete_user(key)).events

    async def _people(self) -> list[UserKey]:
        return [key async for tenant in self._store.list_tenants() async for key in self._store.iter_users(tenant)]

    async def close(self) -> None:
        """Close the file; what waits stays in it."""
        await self._store.close()


def open_spool(path: Path) -> Spool:
    """Open or create a spool; blocks for milliseconds. StoreUnavailable if the disk will not have it."""
    return Spool(open_sqlite(path))
