"""A process full of writers for the crash tests: append, acknowledge on a pipe, bring the posterior up to date, repeat.

Usage: python -m tests.user_store.crash_writer URL ACK_FD NUM_EVENTS NUM_PEOPLE WRITER=START …
"""

import asyncio
import os
import sys

from tests.user_store.models import ADDING, D
from tests.user_store.samples import NOW, event, features
from user_store.errors import Conflict, StoreUnavailable
from user_store.folding import catch_up
from user_store.open import open_store
from user_store.redis_client import RedisOptions
from user_store.store import UserStore
from user_store.types import FeedbackEvent, UserKey


def nth_event(writer: int, number: int, num_people: int) -> FeedbackEvent:
    """The same arguments give the same event, so that a restarted writer repeats what it may have sent."""
    key = UserKey("acme", f"person-{(writer + number) % num_people}")
    seed = 1_000_000 * writer + number
    return event(f"w{writer}-{number}", key, idempotency_key=f"k{writer}-{number}", evidence={"x": features(seed, D)})


async def reopen(url: str) -> UserStore:
    while True:
        try:
            return await open_store(url, RedisOptions(timeout_s=1.0))
        except StoreUnavailable:
            await asyncio.sleep(0.02)


async def write(store: UserStore, ack_fd: int, one: FeedbackEvent) -> None:
    """Try until the event is acknowledged, then until its posterior is current."""
    is_acknowledged = False
    while True:
        try:
            if not is_acknowledged:
                receipt = await store.append_event(one)
                assert receipt.event_id == one.id
                os.write(ack_fd, f"{one.id}\n".encode())
                is_acknowledged = True
            await catch_up(store, one.key, ADDING, now=NOW)
            return
        except (StoreUnavailable, Conflict):
            await asyncio.sleep(0.01)


async def main(url: str, ack_fd: int, num_events: int, num_people: int, writers: dict[int, int]) -> None:
    store = await reopen(url)

    async def run(writer: int, start: int) -> None:
        for number in range(start, num_events):
            await write(store, ack_fd, nth_event(writer, number, num_people))

    await asyncio.gather(*(run(writer, start) for writer, start in writers.items()))
    await store.close()


if __name__ == "__main__":
    given_url, fd, events, people, *assigned = sys.argv[1:]
    starts = {int(name): int(start) for name, start in (pair.split("=") for pair in assigned)}
    asyncio.run(main(given_url, int(fd), int(events), int(people), starts))
