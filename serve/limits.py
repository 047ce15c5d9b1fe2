"""Limits of keys and people: requests and tokens in fixed windows, counted where the store is.

A window opens with the first request in it. Tokens are known only after an answer, so a request is admitted while any
are left and what it took is counted then; the next ones wait for the debt. With Redis all replicas count together, with
SQLite each ingress replica for itself. While the store is away everything is admitted, and counted. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, Storage

from serve.config import KeyLimits, LimitsConfig
from serve.errors import QuotaExceeded, RateLimited
from serve.metrics import Metrics
from serve.window_storage import RedisWindows
from user_store.errors import StoreUnavailable
from user_store.redis_client import RedisOptions, open_backend
from user_store.types import UserKey

logger = logging.getLogger("palate.limits")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where somebody stands within one window."""

    limit: int
    remaining: int
    reset_s: float  # until the window ends


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left after a request was admitted; None where nothing is limited."""

    requests: Standing | None = None
    tokens: Standing | None = None


class Limiter:
    """Admits requests and counts what they took."""

    def __init__(self, config: LimitsConfig, storage: Storage, metrics: Metrics) -> None:
        self._config = config
        self._storage = storage
        self._metrics = metrics

    async def admit(self, key_id: str, *, counts_tokens: bool) -> Allowance:
        """Count a request of a key. Raises RateLimited or QuotaExceeded; both know when to come back."""
        limits = self._config.keys.get(key_id, self._config.key)
        looking = self._look_at_tokens(limits, key_id) if counts_tokens else []
        try:
            requests, *tokens = await asyncio.gather(
                self._count(_per_minute(limits.requests_per_minute), "requests", "key", key_id), *looking
            )
        except StoreUnavailable:
            return self._unlimited()
        self._check(requests, "requests", "requests a minute with this key")
        self._check_tokens(tokens)
        left = [standing for standing in tokens if standing is not None]
        return Allowance(requests, min(left, key=lambda standing: standing.remaining, default=None))

    async def check_tokens(self, key_id: str) -> None:
        """Look whether a key has tokens left, for what takes some only now and then. Raises as `admit` does."""
        limits = self._config.keys.get(key_id, self._config.key)
        try:
            self._check_tokens(await asyncio.gather(*self._look_at_tokens(limits, key_id)))
        except StoreUnavailable:
            self._unlimited()

    async def admit_users(self, users: Sequence[UserKey], *, takes_tokens: bool = True) -> None:
        """Count a request for people. Raises as `admit` does."""
        limits = self._config.user
        try:
            for user in users:
                who = ("user", user.tenant, user.user)
                requests = await self._count(_per_minute(limits.requests_per_minute), "requests", *who)
                tokens = await self._look(_per_day(limits.tokens_per_day if takes_tokens else None), "tokens", *who)
                self._check(requests, "user", "requests a minute for one person")
                self._check(tokens, "user", "tokens a day for one person", is_quota=True)
        except StoreUnavailable:
            self._unlimited()

    async def spend(self, key_id: str, users: Sequence[UserKey], num_tokens: int) -> None:
        """Count the tokens that an answer took."""
        limits = self._config.keys.get(key_id, self._config.key)
        windows = [
            (_per_minute(limits.tokens_per_minute), ("key", key_id)),
            (_per_day(limits.tokens_per_day), ("key", key_id)),
            *((_per_day(self._config.user.tokens_per_day), ("user", user.tenant, user.user)) for user in users),
        ]
        try:
            await asyncio.gather(*(self._count(item, "tokens", *who, cost=num_tokens) for item, who in windows))
        except StoreUnavailable:
            self._unlimited()

    async def close(self) -> None:
        """Let go of the store."""
        if isinstance(self._storage, RedisWindows):
            await self._storage.close()

    async def _count(self, item: RateLimitItem | None, *names: str, cost: int = 1) -> Standing | None:
        """Count within a window; what goes over it is counted too, and shows as a negative remainder."""
        if item is None:
            return None
        name = item.key_for(*names)
        used = await self._storage.incr(name, item.get_expiry(), cost)
        return Standing(item.amount, item.amount - used, await self._reset_s(name, item))

    async def _look(self, item: RateLimitItem | None, *names: str) -> Standing | None:
        """Read a window; one that is used up shows a negative remainder."""
        if item is None:
            return None
        name = item.key_for(*names)
        left = item.amount - await self._storage.get(name)
        return Standing(item.amount, left if left > 0 else -1, await self._reset_s(name, item))

    async def _reset_s(self, name: str, item: RateLimitItem) -> float:
        ends_at: float = await self._storage.get_expiry(name)
        return max(0.0, min(ends_at - time.time(), float(item.get_expiry())))

    def _look_at_tokens(self, limits: KeyLimits, key_id: str) -> list[Coroutine[Any, Any, Standing | None]]:
        """Look at a key's minute and its day."""
        return [
            self._look(_per_minute(limits.tokens_per_minute), "tokens", "key", key_id),
            self._look(_per_day(limits.tokens_per_day), "tokens", "key", key_id),
        ]

    def _check_tokens(self, standings: Sequence[Standing | None]) -> None:
        """Check what `_look_at_tokens` found, if it looked."""
        minute, day = standings or (None, None)
        self._check(minute, "tokens", "tokens a minute with this key")
        self._check(day, "tokens", "tokens a day with this key", is_quota=True)

    def _check(self, standing: Standing | None, reason: str, what: str, *, is_quota: bool = False) -> None:
        if standing is None or standing.remaining >= 0:
            return
        self._metrics.refusals.labels(reason).inc()
        error = (QuotaExceeded if is_quota else RateLimited)(f"At most {standing.limit} {what}. Try again later.")
        error.retry_after_s = max(1, math.ceil(standing.reset_s))
        raise error

    def _unlimited(self) -> Allowance:
        self._metrics.limit_failures.inc()
        return Allowance()


def open_limiter(config: LimitsConfig, store_url: str, options: RedisOptions, metrics: Metrics) -> Limiter | None:
    """Make a limiter that counts beside the store; None where nothing is limited."""
    if not config.is_on:
        return None
    storage: Storage = MemoryStorage()
    if not store_url.startswith("sqlite:"):
        storage = RedisWindows(open_backend(store_url, options))
    return Limiter(config, storage, metrics)


def _per_minute(amount: int | None) -> RateLimitItem | None:
    return None if amount is None else RateLimitItemPerMinute(amount, namespace="palate")


def _per_day(amount: int | None) -> RateLimitItem | None:
    return None if amount is None else RateLimitItemPerDay(amount, namespace="palate")
