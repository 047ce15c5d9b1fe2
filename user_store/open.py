"""From a URL to a store, and a store's layout forward to this program's.

    sqlite:///var/lib/palate/palate.db    one file, absolute path; sqlite:palate.db for a relative one
    redis://…, rediss://…, unix://…, redis+sentinel://…, redis+cluster://…    see `redis_client`

Reads no environment: credentials that the URL should not hold come in `RedisOptions`.
"""

import asyncio
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from user_store.redis_client import SCHEMES, RedisBackend, RedisOptions, open_backend
from user_store.redis_records import SCHEMA
from user_store.redis_store import RedisStore
from user_store.sqlite_schema import check_current, check_not_newer, migrate
from user_store.sqlite_store import connect, open_sqlite
from user_store.store import UserStore

REDIS_SCHEMA_VERSION = 1


async def open_store(url: str, options: RedisOptions | None = None) -> UserStore:
    """Open the store a URL names; a new one is created. SchemaMismatch if it needs `migrate_store` first.

    A SQLite file is opened at once. Redis that is down raises StoreUnavailable here.
    """
    if urlsplit(url).scheme == "sqlite":
        return await asyncio.to_thread(open_sqlite, sqlite_path(url))
    backend = open_backend(url, options or RedisOptions())
    try:
        check_current(await _redis_version(backend), REDIS_SCHEMA_VERSION)
    except BaseException:
        await backend.close()
        raise
    return RedisStore(backend)


async def migrate_store(url: str, options: RedisOptions | None = None) -> tuple[int, int]:
    """Lead a store's layout forward; return the versions before and after. Stop writers of the old layout first."""
    if urlsplit(url).scheme == "sqlite":
        return await asyncio.to_thread(_migrate_sqlite, sqlite_path(url))
    backend = open_backend(url, options or RedisOptions())
    try:
        before = await _redis_version(backend)
        check_not_newer(before, REDIS_SCHEMA_VERSION)
        return before, REDIS_SCHEMA_VERSION
    finally:
        await backend.close()


def sqlite_path(url: str) -> Path:
    """Read the path out of a sqlite URL. ValueError if it names a host or nothing."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or not path.strip("/"):
        raise ValueError(f"{url!r} must look like sqlite:///absolute/path.db or sqlite:relative.db")
    return Path("/" + path.lstrip("/")) if path.startswith("/") else Path(path)


def check_url(url: str) -> None:
    """Refuse a URL that no store understands, before anything is started with it."""
    if urlsplit(url).scheme == "sqlite":
        sqlite_path(url)
    elif urlsplit(url).scheme not in SCHEMES:
        raise ValueError(f"a store URL must start with sqlite: or one of {', '.join(s + '://' for s in SCHEMES)}")


def _migrate_sqlite(path: Path) -> tuple[int, int]:
    with closing(connect(path)) as connection:
        return migrate(connection)


async def _redis_version(backend: RedisBackend) -> int:
    await backend.call("SET", SCHEMA, REDIS_SCHEMA_VERSION, "NX")
    return int(await backend.call("GET", SCHEMA))
