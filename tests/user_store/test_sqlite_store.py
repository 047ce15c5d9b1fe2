"""What only the SQLite store promises: its file, its schema, its threads."""

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.user_store.samples import ANN, event, posterior
from user_store.errors import SchemaMismatch, StoreUnavailable
from user_store.sqlite_schema import MIGRATIONS, migrate, schema_version
from user_store.sqlite_store import SqliteStore, connect, open_sqlite


async def test_the_file_is_its_owners_and_every_connection_syncs(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "palate.db"
    await open_sqlite(path).close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with closing(connect(path)) as connection:
        pragmas = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}


def test_an_older_file_is_led_forward_and_a_newer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "palate.db"
    future = (*MIGRATIONS, "ALTER TABLE people ADD COLUMN note TEXT; UPDATE people SET note = 'kept'")
    with closing(connect(path)) as connection:
        assert migrate(connection) == (0, len(MIGRATIONS))
        connection.execute("INSERT INTO people (tenant, user, epoch, created_at) VALUES ('t', 'u', 'e', 0)")
        assert migrate(connection, future) == (len(MIGRATIONS), len(future))
        assert connection.execute("SELECT note FROM people").fetchone() == ("kept",)
        with pytest.raises(SchemaMismatch, match="newer palate"):
            migrate(connection)
    with pytest.raises(SchemaMismatch, match="newer palate"):
        open_sqlite(path)


def test_a_failed_migration_changes_nothing(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "palate.db")) as connection:
        migrate(connection)
        with pytest.raises(sqlite3.Error):
            migrate(connection, (*MIGRATIONS, "ALTER TABLE people ADD COLUMN note TEXT; NONSENSE"))
        assert schema_version(connection) == len(MIGRATIONS)
        assert "note" not in {row[1] for row in connection.execute("PRAGMA table_info(people)")}


def test_an_outdated_file_asks_for_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "palate.db"
    with closing(connect(path)) as connection:
        migrate(connection)
    monkeypatch.setattr("user_store.sqlite_store.MIGRATIONS", (*MIGRATIONS, "SELECT 1"))
    with pytest.raises(SchemaMismatch, match="palate store migrate"):
        open_sqlite(path)


@pytest.mark.parametrize("name", ["folder", "file"])
def test_what_is_no_database_is_unavailable(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("this is a text file, and long enough to be looked at as a database header" * 20)
    with pytest.raises(StoreUnavailable, match="cannot open"):
        open_sqlite(tmp_path / name)


async def hold_writer(store: SqliteStore) -> Callable[[], Awaitable[None]]:
    """Keep the writer busy with a transaction of its own; return what lets it go on."""
    is_held, gate = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        is_held.set()
        gate.wait(PATIENCE_S)

    held = asyncio.create_task(store._writer.run(hold))
    await asyncio.to_thread(is_held.wait, PATIENCE_S)

    async def let_go() -> None:
        await asyncio.sleep(0)  # every task that was created has queued its operation
        gate.set()
        await held

    return let_go


async def test_concurrent_appends_share_one_transaction(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "palate.db")
    said: list[str] = []
    await store._writer.run(lambda connection: connection.set_trace_callback(said.append))
    let_go = await hold_writer(store)
    said.clear()
    writes = [asyncio.create_task(store.append_event(event(f"e{number}"))) for number in range(100)]
    await let_go()
    await asyncio.gather(*writes)
    await store.append_event(event("last"))
    await store.close()
    assert said.count("COMMIT") == 3  # what held them up, the hundred, and the last


async def test_one_bad_operation_does_not_undo_its_neighbours(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "palate.db")
    let_go = await hold_writer(store)
    good = asyncio.create_task(store.append_event(event("e1")))
    bad = asyncio.create_task(store.put_posterior(ANN, posterior(), expected_version=2**70))
    also_good = asyncio.create_task(store.append_event(event("e2")))
    await let_go()
    outcomes = await asyncio.gather(good, bad, also_good, return_exceptions=True)
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, True, False]
    assert [one.id for one in await store.read_log(ANN)] == ["e1", "e2"]
    await store.close()


async def test_a_locked_file_is_unavailable_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "palate.db"
    await open_sqlite(path).close()
    store = SqliteStore(path, lock_timeout_s=0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="lock"):
            await store.append_event(event("e1"))
        assert not (await store.health()).is_available
        assert not (await store.get_state(ANN)).is_known  # readers do not wait for writers
        other.execute("ROLLBACK")
    await store.append_event(event("e1"))
    assert (await store.health()).is_available
    await store.close()


async def test_a_closed_store_is_unavailable(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "palate.db")
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get_state(ANN)


async def test_closing_finishes_what_was_accepted(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "palate.db")
    writes = [asyncio.create_task(store.append_event(event(f"e{number}"))) for number in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert not [outcome for outcome in await asyncio.gather(*writes) if outcome.is_duplicate]


async def test_a_deleted_persons_words_leave_the_file(tmp_path: Path) -> None:
    path = tmp_path / "palate.db"
    store = open_sqlite(path)
    await store.append_events([event(f"e{number}", reason="unforgettable-phrase" * 20) for number in range(50)])
    await store.close()
    assert b"unforgettable-phrase" in path.read_bytes()
    store = open_sqlite(path)
    await store.delete_user(ANN)
    await store.close()
    assert os.listdir(tmp_path) == ["palate.db"]  # closing folds the write-ahead log in
    assert b"unforgettable-phrase" not in path.read_bytes()


async def test_an_unreadable_posterior_does_not_stop_a_scan(tmp_path: Path) -> None:
    path = tmp_path / "palate.db"
    store = open_sqlite(path)
    await store.put_posterior(ANN, posterior(), expected_version=0)
    with closing(connect(path)) as connection:
        connection.execute("UPDATE people SET posterior = x'00'")
    assert [key async for key, _ in store.iter_posteriors("acme")] == []
    await store.close()
