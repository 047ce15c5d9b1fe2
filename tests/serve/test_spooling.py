"""Spool files: one a process, and none forgotten."""

from __future__ import annotations

from pathlib import Path

from serve.spooling import SpoolFolder
from tests.user_store.samples import ANN, event
from user_store.open import open_store


async def test_each_process_has_its_own_file_and_what_the_dead_left_is_delivered(tmp_path: Path) -> None:
    one, other = SpoolFolder(tmp_path / "spool"), SpoolFolder(tmp_path / "spool")
    await one.add(event("e1"))
    await other.add(event("e2"))
    assert (await one.size(), await other.size()) == (1, 1)
    store = await open_store(f"sqlite://{tmp_path}/palate.db")
    assert (await one.deliver(store.append_events)).taken == [ANN]  # the other lives, so its file is its own
    assert [found.id for found in await store.read_log(ANN)] == ["e1"]
    await other.close()
    assert (await one.deliver(store.append_events)).taken == [ANN]
    assert [found.id for found in await store.read_log(ANN)] == ["e1", "e2"]
    assert (await one.deliver(store.append_events)).taken == []
    again = SpoolFolder(tmp_path / "spool")
    assert len(list((tmp_path / "spool").glob("*.db"))) == 2  # the free file was taken again
    await again.close()
    await one.close()
    await store.close()
