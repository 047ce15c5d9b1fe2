"""Feedback that waited in the spool while the store was away: handed to the store person by person, then learned from.

What one person's damaged record keeps back stays in the spool, and nobody else's. Knows no HTTP, no engine and no Ray.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from serve.metrics import Metrics
from serve.people import People
from serve.spooling import SpoolFolder
from user_store import errors as store_errors
from user_store.types import FeedbackEvent, UserKey

logger = logging.getLogger("palate.delivery")


class Courier:
    """Brings what waits in one process's spool, and in those of dead ones, to the store."""

    def __init__(self, people: People, spool: SpoolFolder, metrics: Metrics) -> None:
        self._people = people
        self._spool = spool
        self._metrics = metrics
        self._refused: set[UserKey] = set()  # whose feedback the store would not take the last time

    async def deliver(self) -> int:
        """Hand what waits in the spool to the store, and learn from it; return whose. Quiet while it is still away."""
        delivery = await self._spool.deliver(self._take_in)
        if delivery.refused.keys() - self._refused:
            reasons = ", ".join(sorted(set(delivery.refused.values())))
            logger.error("feedback of %d people stays in the spool: %s", len(delivery.refused), reasons)
        self._refused = set(delivery.refused)
        for key in delivery.taken:
            try:
                await self._people.learn(key)
            except store_errors.StoreUnavailable:
                break  # who is left over is behind their log, and their next request mends it
            except store_errors.StoreError as error:
                logger.warning("a posterior follows later: %s", type(error).__name__)
        return len(delivery.taken)

    async def _take_in(self, events: Sequence[FeedbackEvent]) -> None:
        """Append one person's spooled events; whether learning is paused could not be seen when they came."""
        store = self._people.store
        if (await store.get_state(events[0].key)).profile.is_learning_paused:
            events = [_paused(event) for event in events]
        await store.append_events(events)

    async def count_waiting(self) -> None:
        """Say how much this process keeps for a store that is away."""
        self._metrics.spool_waiting.set(await self._spool.size())


async def deliver_forever(courier: Courier, period_s: float) -> None:
    """Deliver what waits, again and again, until cancelled."""
    while True:
        try:
            await courier.deliver()
            await courier.count_waiting()
        except (store_errors.StoreError, OSError) as error:  # the spool's own disk
            logger.error("the spool cannot be read, it is tried again: %s", type(error).__name__)
        await asyncio.sleep(period_s)


def _paused(event: FeedbackEvent) -> FeedbackEvent:
    """Mark what is sent while learning is paused: it is kept and never counts, so it needs nothing to count with."""
    kept = {name: value for name, value in event.payload.items() if name in ("choice", "question_id")}
    return replace(event, payload={**kept, "is_paused": True}, evidence=None, is_pending=False)
