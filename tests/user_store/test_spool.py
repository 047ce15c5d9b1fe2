"""What is spooled survives a restart and arrives once, whatever fails on the way."""

import asyncio
from pathlib import Path

import pytest

from tests.user_store.samples import ANN, event, features
from user_store.errors import StoreUnavailable
from user_store.spool import open_spool
from user_store.sqlite_store import open_sqlite
from user_store.store import UserStore
from user_store.types import UserKey

BOB = UserKey("evil", "bob")


async def test_what_waited_arrives_once_and_in_order(store: UserStore, tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool.db")
    for number in range(3):
        await spool.add(event(f"e{number}", evidence={"x": features(number, 2)}, idempotency_key=f"k{number}"))
    assert (await spool.add(event("e0"))).is_duplicate
    await spool.add(event("b1", BOB))
    await spool.close()
    spool = open_spool(tmp_path / "spool.db")
    assert await spool.size() == 4
    assert (await spool.deliver(store.append_events)).taken == [ANN, BOB]
    assert (await spool.deliver(store.append_events)).taken == []
    assert [one.id for one in await store.read_log(ANN)] == ["e0", "e1", "e2"]
    assert (await store.find_event("evil", "b1")).key == BOB
    await spool.close()


async def test_a_crash_after_delivery_adds_nothing_twice(store: UserStore, tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool.db")
    await spool.add(event("e1"))
    await store.append_event(event("e1"))  # delivered, but the spool was killed before it could forget
    assert (await spool.deliver(store.append_events)).taken == [ANN]
    assert len(await store.read_log(ANN)) == 1
    await spool.close()


async def test_a_store_that_is_still_away_leaves_everything_waiting(tmp_path: Path) -> None:
    away = open_sqlite(tmp_path / "away.db")
    await away.close()
    spool = open_spool(tmp_path / "spool.db")
    await spool.add(event("e1"))
    assert (await spool.deliver(away.append_events)).taken == []
    assert await spool.size() == 1
    await spool.close()
    with pytest.raises(StoreUnavailable):
        await spool.add(event("e2"))


async def test_events_that_come_during_delivery_are_not_lost(store: UserStore, tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool.db")
    adding = [asyncio.create_task(spool.add(event(f"e{number}"))) for number in range(50)]
    for _ in range(5):
        await spool.deliver(store.append_events)
    await asyncio.gather(*adding)
    await spool.deliver(store.append_events)
    assert {one.id for one in await store.read_log(ANN)} == {f"e{number}" for number in range(50)}
    assert await spool.size() == 0
    await spool.close()
