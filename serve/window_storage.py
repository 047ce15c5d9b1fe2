"""Windows of the `limits` library in the store's own Redis, reached as the store is: Sentinel, Cluster, TLS, ACL.

Only fixed windows: a counter that expires. Knows nothing of who is limited.
"""

from __future__ import annotations

import time

from limits.aio.storage import Storage

from user_store.errors import StoreUnavailable
from user_store.redis_client import RedisBackend

# The window opens with its first request. A counter without an end (restored from elsewhere) gets one.
COUNT = """
local used = redis.call('INCRBY', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return used
"""


class RedisWindows(Storage):  # type: ignore[misc]  # the library is read as untyped
    """Counters under `palate:limit:`."""

    STORAGE_SCHEME = None

    def __init__(self, backend: RedisBackend) -> None:
        super().__init__()
        self._backend = backend

    @property
    def base_exceptions(self) -> type[Exception]:
        """Name what the backend raises."""
        return StoreUnavailable

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a window, opening it for `expiry` seconds if it is not; return what is in it then."""
        return int(await self._backend.script(COUNT, [_name(key)], [amount, int(expiry * 1_000)]))

    async def get(self, key: str) -> int:
        """Read a window."""
        return int(await self._backend.call("GET", _name(key)) or 0)

    async def get_expiry(self, key: str) -> float:
        """Return when a window ends, Unix time; now if it is not open."""
        left_ms = int(await self._backend.call("PTTL", _name(key)))
        return time.time() + max(0, left_ms) / 1_000

    async def check(self) -> bool:
        """Whether the backend answers."""
        try:
            await self._backend.call("PING")
        except StoreUnavailable:
            return False
        return True

    async def reset(self) -> int | None:
        """Refuse: counters of others live there too."""
        raise NotImplementedError("clear windows one by one")

    async def clear(self, key: str) -> None:
        """Forget a window."""
        await self._backend.call("DEL", _name(key))

    async def close(self) -> None:
        """Close all connections."""
        await self._backend.close()


def _name(key: str) -> str:
    return f"palate:limit:{key}"
