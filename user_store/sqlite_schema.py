"""The layout of the SQLite file and its forward migrations.

A migration is one script that leads from version i to i + 1; it never changes once released. Knows nothing about
records. `PRAGMA user_version` holds the version.
"""

import sqlite3
from collections.abc import Sequence

from user_store.errors import SchemaMismatch

_FIRST = """
CREATE TABLE people (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    user TEXT NOT NULL,
    epoch TEXT NOT NULL,
    created_at REAL NOT NULL,
    last_seq INTEGER NOT NULL DEFAULT 0,
    revision INTEGER NOT NULL DEFAULT 0,
    profile TEXT,
    profile_version INTEGER NOT NULL DEFAULT 0,
    posterior BLOB,
    posterior_version INTEGER NOT NULL DEFAULT 0,
    posterior_seq INTEGER NOT NULL DEFAULT 0,
    posterior_revision INTEGER NOT NULL DEFAULT 0,
    population TEXT NOT NULL DEFAULT '',
    updated_at REAL NOT NULL DEFAULT 0,
    UNIQUE (tenant, user)
);
CREATE TABLE events (
    person INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    created_at REAL NOT NULL,
    idempotency_key TEXT,
    subject TEXT,
    is_pending INTEGER NOT NULL DEFAULT 0,
    is_withdrawn INTEGER NOT NULL DEFAULT 0,
    body TEXT NOT NULL,
    evidence BLOB,
    UNIQUE (person, seq)
);
CREATE UNIQUE INDEX events_by_id ON events (tenant, id, person);
CREATE UNIQUE INDEX events_by_key ON events (person, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX events_by_subject ON events (person, subject) WHERE subject IS NOT NULL;
CREATE INDEX events_pending ON events (person) WHERE is_pending;
CREATE TABLE completions (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    user TEXT NOT NULL,
    expires_at REAL NOT NULL,
    is_stored INTEGER NOT NULL,
    body TEXT,
    features BLOB,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX completions_by_user ON completions (tenant, user);
CREATE INDEX completions_by_time ON completions (expires_at);
"""

MIGRATIONS: tuple[str, ...] = (_FIRST,)


def schema_version(connection: sqlite3.Connection) -> int:
    """Read the file's version; 0 for an empty file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def migrate(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> tuple[int, int]:
    """Lead the file forward to the newest version, in one transaction; return the versions before and after.

    Several processes may call this at once. SchemaMismatch if the file is newer than this program.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        before = schema_version(connection)
        check_not_newer(before, len(migrations))
        for version in range(before, len(migrations)):
            for statement in migrations[version].split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return before, len(migrations)


def check_not_newer(found: int, known: int) -> None:
    """Refuse a layout from the future."""
    if found > known:
        raise SchemaMismatch(f"the store has schema {found}, this program knows {known}; install a newer palate")


def check_current(found: int, known: int) -> None:
    """Refuse any layout but this program's."""
    check_not_newer(found, known)
    if found < known:
        raise SchemaMismatch(f"the store has schema {found}, this program needs {known}; run `palate store migrate`")
