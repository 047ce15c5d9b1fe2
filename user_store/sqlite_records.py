"""Every statement of the SQLite store, as plain functions of a connection.

Each runs inside a transaction that its caller opened. Knows nothing about threads or event loops.
"""

import secrets
import sqlite3
from collections.abc import Sequence
from typing import Any

from user_store import codec
from user_store.errors import Conflict, CorruptRecord, Expired, NotFound
from user_store.store import TOMBSTONE_S
from user_store.types import (
    AppendReceipt,
    CompletionRecord,
    DeletionReceipt,
    EventFilter,
    EventPage,
    FeedbackEvent,
    LogPosition,
    Profile,
    StoredPosterior,
    UserKey,
    UserState,
)
from user_store.validation import Arrays

_PURGE_ROWS = 64  # per write, so that expiry costs no writer much
_EVENT = "e.seq, e.body, e.evidence, e.is_withdrawn"
_PENDING = "(SELECT count(*) FROM events WHERE person = people.id AND is_pending)"
_POSTERIOR = "posterior, posterior_version, posterior_seq, posterior_revision, population, updated_at"

Row = tuple[Any, ...]


def _person(connection: sqlite3.Connection, key: UserKey) -> Row | None:
    """Find id, epoch, last_seq, revision."""
    statement = "SELECT id, epoch, last_seq, revision FROM people WHERE tenant = ? AND user = ?"
    row: Row | None = connection.execute(statement, (key.tenant, key.user)).fetchone()
    return row


def _ensure_person(connection: sqlite3.Connection, key: UserKey, created_at: float) -> Row:
    row = _person(connection, key)
    if row is None:
        epoch = secrets.token_hex(8)
        cursor = connection.execute(
            "INSERT INTO people (tenant, user, epoch, created_at) VALUES (?, ?, ?, ?)",
            (key.tenant, key.user, epoch, created_at),
        )
        row = (cursor.lastrowid, epoch, 0, 0)
    return row


def _event(key: UserKey, row: Row) -> FeedbackEvent:
    seq, body, evidence, is_withdrawn = row
    return codec.decode_event(key, body, evidence, seq=seq, is_withdrawn=bool(is_withdrawn))


def append_events(connection: sqlite3.Connection, events: Sequence[FeedbackEvent]) -> list[AppendReceipt]:
    """Append events of one person; duplicates are recognised one by one."""
    if not events:
        return []
    person, epoch, seq, revision = _ensure_person(connection, events[0].key, events[0].created_at)
    receipts: list[AppendReceipt] = []
    for event in events:
        known = connection.execute(
            "SELECT id FROM events WHERE tenant = ? AND id = ? AND person = ? "
            "UNION ALL SELECT id FROM events WHERE person = ? AND idempotency_key = ?",
            (event.key.tenant, event.id, person, person, event.idempotency_key),
        ).fetchone()
        if known is None:
            seq += 1
            revision += _replaces(connection, person, event)
            _insert_event(connection, person, seq, event)
        event_id = known[0] if known else event.id
        receipts.append(AppendReceipt(event_id, known is not None, LogPosition(epoch, seq, revision)))
    connection.execute("UPDATE people SET last_seq = ?, revision = ? WHERE id = ?", (seq, revision, person))
    return receipts


def _replaces(connection: sqlite3.Connection, person: int, event: FeedbackEvent) -> bool:
    statement = "SELECT 1 FROM events WHERE person = ? AND subject = ? LIMIT 1"
    return event.subject is not None and connection.execute(statement, (person, event.subject)).fetchone() is not None


def _insert_event(connection: sqlite3.Connection, person: int, seq: int, event: FeedbackEvent) -> None:
    connection.execute(
        "INSERT INTO events (person, seq, tenant, id, kind, created_at, idempotency_key, subject, is_pending, "
        "is_withdrawn, body, evidence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            person,
            seq,
            event.key.tenant,
            event.id,
            event.kind.value,
            event.created_at,
            event.idempotency_key,
            event.subject,
            event.is_pending and not event.is_withdrawn,
            event.is_withdrawn,
            codec.event_body(event),
            codec.dump_arrays(event.evidence) if event.evidence is not None else None,
        ),
    )


def list_events(connection: sqlite3.Connection, tenant: str, query: EventFilter) -> EventPage:
    """Select one page, ordered by person and number."""
    after: tuple[str, int] = ("", 0)
    if query.after is not None:
        where, values = "p.tenant = ? AND e.id = ?", [tenant, query.after]
        if query.user is not None:
            where, values = where + " AND p.user = ?", [*values, query.user]
        row = connection.execute(
            f"SELECT p.user, e.seq FROM events e JOIN people p ON p.id = e.person WHERE {where}",  # noqa: S608
            values,
        ).fetchone()
        if row is None:
            raise NotFound("no event has the id given as `after`; start the list anew")
        after = row
    conditions = {
        "p.tenant = ?": tenant,
        "p.user = ?": query.user,
        "e.kind = ?": query.kind and query.kind.value,
        "e.created_at >= ?": query.since,
    }
    used = {text: value for text, value in conditions.items() if value is not None}
    rows = connection.execute(
        f"SELECT p.user, {_EVENT} FROM people p JOIN events e ON e.person = p.id "  # noqa: S608
        f"WHERE {' AND '.join(used)} AND (p.user, e.seq) > (?, ?) ORDER BY p.user, e.seq LIMIT ?",
        (*used.values(), *after, query.limit + 1),
    ).fetchall()
    data = tuple(_event(UserKey(tenant, user), row) for user, *row in rows[: query.limit])
    return EventPage(data, has_more=len(rows) > query.limit)


def read_log(connection: sqlite3.Connection, key: UserKey, after_seq: int) -> list[FeedbackEvent]:
    """Select one person's events after a number."""
    rows = connection.execute(
        f"SELECT {_EVENT} FROM people p JOIN events e ON e.person = p.id "  # noqa: S608
        "WHERE p.tenant = ? AND p.user = ? AND e.seq > ? ORDER BY e.seq",
        (key.tenant, key.user, after_seq),
    )
    return [_event(key, row) for row in rows]


def find_event(connection: sqlite3.Connection, tenant: str, event_id: str) -> FeedbackEvent:
    """Select an event by its id; of several people with one id, the latest writer's."""
    row = connection.execute(
        f"SELECT p.user, {_EVENT} FROM events e JOIN people p ON p.id = e.person "  # noqa: S608
        "WHERE e.tenant = ? AND e.id = ? ORDER BY e.rowid DESC",
        (tenant, event_id),
    ).fetchone()
    if row is None:
        raise NotFound("there is no feedback with this id")
    return _event(UserKey(tenant, row[0]), row[1:])


def list_pending(connection: sqlite3.Connection, key: UserKey) -> list[FeedbackEvent]:
    """Select one person's events that wait."""
    rows = connection.execute(
        f"SELECT {_EVENT} FROM people p JOIN events e ON e.person = p.id "  # noqa: S608
        "WHERE p.tenant = ? AND p.user = ? AND e.is_pending ORDER BY e.seq",
        (key.tenant, key.user),
    )
    return [_event(key, row) for row in rows]


def _own_event(connection: sqlite3.Connection, key: UserKey, event_id: str) -> tuple[int, FeedbackEvent]:
    row = connection.execute(
        f"SELECT p.id, {_EVENT} FROM people p JOIN events e ON e.person = p.id "  # noqa: S608
        "WHERE p.tenant = ? AND p.user = ? AND e.tenant = p.tenant AND e.id = ?",
        (key.tenant, key.user, event_id),
    ).fetchone()
    if row is None:
        raise NotFound("this person has no feedback with this id")
    return row[0], _event(key, row[1:])


def withdraw_event(connection: sqlite3.Connection, key: UserKey, event_id: str) -> FeedbackEvent:
    """Mark as withdrawn and change the log's revision."""
    person, event = _own_event(connection, key, event_id)
    if not event.is_withdrawn:
        connection.execute(
            "UPDATE events SET is_withdrawn = 1, is_pending = 0 WHERE person = ? AND seq = ?", (person, event.seq)
        )
        connection.execute("UPDATE people SET revision = revision + 1 WHERE id = ?", (person,))
    return _own_event(connection, key, event_id)[1]


def attach_evidence(connection: sqlite3.Connection, key: UserKey, event_id: str, evidence: Arrays) -> bool:
    """Fill a pending event's evidence and change the log's revision."""
    person, event = _own_event(connection, key, event_id)
    if not event.is_pending:
        return False
    connection.execute(
        "UPDATE events SET evidence = ?, is_pending = 0 WHERE person = ? AND seq = ?",
        (codec.dump_arrays(evidence), person, event.seq),
    )
    connection.execute("UPDATE people SET revision = revision + 1 WHERE id = ?", (person,))
    return True


def _posterior(epoch: str, row: Row) -> StoredPosterior | None:
    blob, version, seq, revision, population, updated_at = row
    if blob is None:
        return None
    arrays = codec.load_arrays(blob, "a posterior")
    return StoredPosterior(arrays, population, LogPosition(epoch, seq, revision), updated_at, version)


def get_state(connection: sqlite3.Connection, key: UserKey) -> UserState:
    """Select a person's row."""
    row = connection.execute(
        f"SELECT epoch, last_seq, revision, profile, created_at, profile_version, {_PENDING}, {_POSTERIOR} "  # noqa: S608
        "FROM people WHERE tenant = ? AND user = ?",
        (key.tenant, key.user),
    ).fetchone()
    if row is None:
        return UserState(key)
    epoch, seq, revision, profile, created_at, version, num_pending = row[:7]
    return UserState(
        key=key,
        profile=codec.decode_profile(profile, created_at=created_at, version=version),
        posterior=_posterior(epoch, row[7:]),
        position=LogPosition(epoch, seq, revision),
        num_pending=num_pending,
    )


def put_posterior(
    connection: sqlite3.Connection, key: UserKey, posterior: StoredPosterior, expected_version: int
) -> int:
    """Compare and set the posterior."""
    person = _person(connection, key)
    if (person[1] if person else "") != posterior.position.epoch:
        raise Conflict("the person was deleted or created meanwhile; read the state again", current_version=0)
    person = person or _ensure_person(connection, key, posterior.updated_at)
    position = posterior.position
    cursor = connection.execute(
        "UPDATE people SET posterior = ?, posterior_version = posterior_version + 1, posterior_seq = ?, "
        "posterior_revision = ?, population = ?, updated_at = ? WHERE id = ? AND posterior_version = ?",
        (
            codec.dump_arrays(posterior.arrays),
            position.seq,
            position.revision,
            posterior.population,
            posterior.updated_at,
            person[0],
            expected_version,
        ),
    )
    return _settled(connection, cursor, "posterior_version", person[0], expected_version)


def put_profile(connection: sqlite3.Connection, key: UserKey, profile: Profile, expected_version: int) -> int:
    """Compare and set the profile."""
    person = _ensure_person(connection, key, profile.created_at)
    cursor = connection.execute(
        "UPDATE people SET profile = ?, profile_version = profile_version + 1 WHERE id = ? AND profile_version = ?",
        (codec.profile_body(profile), person[0], expected_version),
    )
    return _settled(connection, cursor, "profile_version", person[0], expected_version)


def _settled(connection: sqlite3.Connection, cursor: sqlite3.Cursor, column: str, person: int, expected: int) -> int:
    if cursor.rowcount == 1:
        return expected + 1
    (current,) = connection.execute(f"SELECT {column} FROM people WHERE id = ?", (person,)).fetchone()  # noqa: S608
    raise Conflict(f"version {expected} was expected, {current} is stored; read again", current_version=current)


def announce_completion(connection: sqlite3.Connection, record: CompletionRecord) -> None:
    """Insert unless it is there."""
    connection.execute(
        "INSERT OR IGNORE INTO completions (tenant, id, user, expires_at, is_stored, body) VALUES (?, ?, ?, ?, 0, ?)",
        (record.key.tenant, record.id, record.key.user, record.expires_at, codec.completion_body(record)),
    )


def put_completion(connection: sqlite3.Connection, record: CompletionRecord) -> list[FeedbackEvent]:
    """Insert or replace, drop a few that have expired, and find the events that waited."""
    _purge_completions(connection, record.created_at)
    values = (record.key.tenant, record.id, record.key.user, record.expires_at)
    connection.execute(
        "INSERT OR REPLACE INTO completions (tenant, id, user, expires_at, is_stored, body, features) "
        "VALUES (?, ?, ?, ?, 1, ?, ?)",
        (*values, codec.completion_body(record), codec.completion_features(record)),
    )
    return [event for event in list_pending(connection, record.key) if record.id in event.completion_ids]


def _purge_completions(connection: sqlite3.Connection, now: float) -> None:
    expired = "SELECT rowid FROM completions WHERE expires_at <= ? AND expires_at > ? AND body IS NOT NULL LIMIT ?"
    connection.execute(
        f"UPDATE completions SET body = NULL, features = NULL WHERE rowid IN ({expired})",  # noqa: S608
        (now, now - TOMBSTONE_S, _PURGE_ROWS),
    )
    gone = "SELECT rowid FROM completions WHERE expires_at <= ? LIMIT ?"
    connection.execute(f"DELETE FROM completions WHERE rowid IN ({gone})", (now - TOMBSTONE_S, _PURGE_ROWS))  # noqa: S608


def get_completion(connection: sqlite3.Connection, tenant: str, completion_id: str, now: float) -> CompletionRecord:
    """Select a completion, telling expired from unknown."""
    row = connection.execute(
        "SELECT body, features, expires_at FROM completions WHERE tenant = ? AND id = ?", (tenant, completion_id)
    ).fetchone()
    if row is None or row[2] + TOMBSTONE_S <= now:
        raise NotFound("no completion with this id was served here")
    if row[0] is None or row[2] <= now:
        raise Expired("the completion's features are no longer kept; send the texts inline instead")
    return codec.decode_completion(tenant, row[0], row[1])


def list_completions(connection: sqlite3.Connection, key: UserKey, now: float) -> list[CompletionRecord]:
    """Select a person's unexpired completions, oldest expiry first."""
    rows = connection.execute(
        "SELECT body, features FROM completions WHERE tenant = ? AND user = ? AND expires_at > ? "
        "AND body IS NOT NULL ORDER BY expires_at, id",
        (key.tenant, key.user, now),
    )
    return [codec.decode_completion(key.tenant, body, features) for body, features in rows]


def delete_user(connection: sqlite3.Connection, key: UserKey) -> DeletionReceipt:
    """Delete a person's rows everywhere."""
    counts = connection.execute(
        "SELECT count(p.posterior), count(p.profile), (SELECT count(*) FROM events WHERE person = p.id) "
        "FROM people p WHERE tenant = ? AND user = ?",
        (key.tenant, key.user),
    ).fetchone()
    posteriors, profiles, events = counts
    where = "WHERE tenant = ? AND user = ?"
    completions = connection.execute(f"DELETE FROM completions {where}", (key.tenant, key.user)).rowcount  # noqa: S608
    connection.execute(f"DELETE FROM people {where}", (key.tenant, key.user))  # noqa: S608
    return DeletionReceipt(key, events or 0, completions, posteriors, profiles)


def list_tenants(connection: sqlite3.Connection) -> list[str]:
    """Select the tenants that have people."""
    return [tenant for (tenant,) in connection.execute("SELECT DISTINCT tenant FROM people ORDER BY tenant")]


def page_users(connection: sqlite3.Connection, tenant: str, after: str, limit: int) -> list[UserKey]:
    """Select the next people after a user id."""
    statement = "SELECT user FROM people WHERE tenant = ? AND user > ? ORDER BY user LIMIT ?"
    return [UserKey(tenant, user) for (user,) in connection.execute(statement, (tenant, after, limit))]


def page_posteriors(
    connection: sqlite3.Connection, tenant: str, after: str, limit: int
) -> list[tuple[UserKey, StoredPosterior | None]]:
    """Select the next people's posteriors after a user id."""
    rows = connection.execute(
        f"SELECT user, epoch, {_POSTERIOR} FROM people WHERE tenant = ? AND user > ? ORDER BY user LIMIT ?",  # noqa: S608
        (tenant, after, limit),
    )
    return [(UserKey(tenant, user), _readable_posterior(epoch, tuple(rest))) for user, epoch, *rest in rows]


def _readable_posterior(epoch: str, row: Row) -> StoredPosterior | None:
    try:
        return _posterior(epoch, row)
    except CorruptRecord:
        return None  # one bad record must not stop a scan; `store check` names it
