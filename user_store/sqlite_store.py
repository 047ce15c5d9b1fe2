"""The embedded store: one SQLite file in WAL mode, safe with several processes, fsynced before an append returns.

Readers and the writer have threads of their own (`sqlite_lanes`); statements live in `sqlite_records`. Every write
transaction starts with BEGIN IMMEDIATE, so that processes queue at the lock instead of failing half-way.
"""

import itertools
import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from user_store import sqlite_records as records
from user_store.errors import StoreError, StoreUnavailable
from user_store.sqlite_lanes import ReadLane, WriteLane
from user_store.sqlite_schema import MIGRATIONS, check_current, migrate, schema_version
from user_store.types import (
    AppendReceipt,
    CompletionRecord,
    DeletionReceipt,
    EventFilter,
    EventPage,
    FeedbackEvent,
    Profile,
    StoredPosterior,
    StoreHealth,
    UserKey,
    UserState,
    check_one_person,
    frozen_evidence,
)
from user_store.validation import Arrays, check_tenant

PAGE_ROWS = 500
DEFAULT_LOCK_TIMEOUT_S = 10.0


class SqliteStore:
    """A `UserStore` in one file. Use `open_sqlite`, which checks the schema first."""

    def __init__(self, path: Path, *, lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S, num_readers: int = 2) -> None:
        self.path = path
        self._writer = WriteLane(lambda: connect(path, lock_timeout_s), "palate-store-writer")
        self._readers = [
            ReadLane(lambda: connect(path, lock_timeout_s), f"palate-store-reader-{i}") for i in range(num_readers)
        ]
        self._next_reader = itertools.cycle(self._readers)

    async def append_event(self, event: FeedbackEvent) -> AppendReceipt:
        """Append one event."""
        return (await self._writer.run(lambda c: records.append_events(c, [event])))[0]

    async def append_events(self, events: Sequence[FeedbackEvent]) -> list[AppendReceipt]:
        """Append events of one person."""
        check_one_person(events)
        return await self._writer.run(lambda c: records.append_events(c, events))

    async def list_events(self, tenant: str, query: EventFilter) -> EventPage:
        """List events."""
        check_tenant(tenant)
        return await next(self._next_reader).run(lambda c: records.list_events(c, tenant, query))

    async def read_log(self, key: UserKey, *, after_seq: int = 0) -> list[FeedbackEvent]:
        """Read one person's log."""
        return await next(self._next_reader).run(lambda c: records.read_log(c, key, after_seq))

    async def list_pending(self, key: UserKey) -> list[FeedbackEvent]:
        """Read one person's events that wait."""
        return await next(self._next_reader).run(lambda c: records.list_pending(c, key))

    async def find_event(self, tenant: str, event_id: str) -> FeedbackEvent:
        """Find an event by id."""
        check_tenant(tenant)
        return await next(self._next_reader).run(lambda c: records.find_event(c, tenant, event_id))

    async def withdraw_event(self, key: UserKey, event_id: str) -> FeedbackEvent:
        """Withdraw an event."""
        return await self._writer.run(lambda c: records.withdraw_event(c, key, event_id))

    async def attach_evidence(self, key: UserKey, event_id: str, evidence: Arrays) -> bool:
        """Attach evidence to a pending event."""
        frozen = frozen_evidence(evidence)
        return await self._writer.run(lambda c: records.attach_evidence(c, key, event_id, frozen))

    async def get_state(self, key: UserKey) -> UserState:
        """Read a person's state."""
        return await next(self._next_reader).run(lambda c: records.get_state(c, key))

    async def put_posterior(self, key: UserKey, posterior: StoredPosterior, *, expected_version: int) -> int:
        """Compare and set the posterior."""
        return await self._writer.run(lambda c: records.put_posterior(c, key, posterior, expected_version))

    async def put_profile(self, key: UserKey, profile: Profile, *, expected_version: int) -> int:
        """Compare and set the profile."""
        return await self._writer.run(lambda c: records.put_profile(c, key, profile, expected_version))

    async def announce_completion(self, record: CompletionRecord) -> None:
        """Announce a completion."""
        await self._writer.run(lambda c: records.announce_completion(c, record))

    async def put_completion(self, record: CompletionRecord) -> list[FeedbackEvent]:
        """Remember a completion."""
        return await self._writer.run(lambda c: records.put_completion(c, record))

    async def get_completion(self, tenant: str, completion_id: str, *, now: float) -> CompletionRecord:
        """Read a completion."""
        check_tenant(tenant)
        return await next(self._next_reader).run(lambda c: records.get_completion(c, tenant, completion_id, now))

    async def list_completions(self, key: UserKey, *, now: float) -> list[CompletionRecord]:
        """Read a person's completions."""
        return await next(self._next_reader).run(lambda c: records.list_completions(c, key, now))

    async def delete_user(self, key: UserKey) -> DeletionReceipt:
        """Erase a person."""
        return await self._writer.run(lambda c: records.delete_user(c, key))

    async def list_tenants(self) -> AsyncIterator[str]:
        """Yield tenants."""
        for tenant in await next(self._next_reader).run(records.list_tenants):
            yield tenant

    async def iter_users(self, tenant: str) -> AsyncIterator[UserKey]:
        """Yield people page by page."""
        check_tenant(tenant)
        after = ""
        while page := await self._user_page(tenant, after):
            for key in page:
                yield key
            after = page[-1].user

    async def _user_page(self, tenant: str, after: str) -> list[UserKey]:
        return await next(self._next_reader).run(lambda c: records.page_users(c, tenant, after, PAGE_ROWS))

    async def iter_posteriors(self, tenant: str) -> AsyncIterator[tuple[UserKey, StoredPosterior]]:
        """Yield posteriors page by page."""
        check_tenant(tenant)
        after = ""
        while page := await self._posterior_page(tenant, after):
            for key, posterior in page:
                if posterior is not None:
                    yield key, posterior
            after = page[-1][0].user

    async def _posterior_page(self, tenant: str, after: str) -> list[tuple[UserKey, StoredPosterior | None]]:
        return await next(self._next_reader).run(lambda c: records.page_posteriors(c, tenant, after, PAGE_ROWS))

    async def health(self) -> StoreHealth:
        """Read the schema version through the writer's connection, which shows whether the file can be locked."""
        try:
            version = await self._writer.run(schema_version)
        except StoreError as error:
            return StoreHealth("sqlite", is_available=False, durability="always", schema_version=0, detail=str(error))
        return StoreHealth("sqlite", is_available=True, durability="always", schema_version=version)

    async def close(self) -> None:
        """Finish what is queued and close the connections."""
        for lane in (self._writer, *self._readers):
            await lane.close()


def connect(path: Path, lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S) -> sqlite3.Connection:
    """Open a connection with this store's pragmas; create the file, readable by its owner alone."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, timeout=lock_timeout_s, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # WAL's default on some builds is NORMAL: no fsync per commit
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # what a person deletes is overwritten, not only unlinked
    return connection


def open_sqlite(path: Path, *, lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S) -> SqliteStore:
    """Open a store, creating it if the file is new; blocks for milliseconds. SchemaMismatch if it needs migration."""
    try:
        connection = connect(path, lock_timeout_s)
        try:
            if schema_version(connection) == 0:
                migrate(connection)
            check_current(schema_version(connection), len(MIGRATIONS))
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"cannot open the store {path}: {error}; check path, permissions and disk") from error
    return SqliteStore(path, lock_timeout_s=lock_timeout_s)
