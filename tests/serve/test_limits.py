"""Limits of keys and people, counted in this process and in a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve.config import LimitsConfig
from serve.errors import QuotaExceeded, RateLimited
from serve.limits import Limiter, open_limiter
from serve.metrics import Metrics
from tests.user_store.redis_server import INSTALL, RedisServer, find_binary
from user_store.redis_client import RedisOptions
from user_store.types import UserKey

ANN, BOB = UserKey("default", "ann"), UserKey("default", "bob")


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "memory":
        yield "sqlite:palate.db"
        return
    binary = find_binary()
    if binary is None:
        pytest.skip(f"no redis-server here; install it with: {' '.join(INSTALL)}")
    server = RedisServer(binary, tmp_path)
    server.start()
    yield server.url
    server.stop()


def limiter_of(store_url: str, metrics: Metrics | None = None, **sections: object) -> Limiter:
    config = LimitsConfig.model_validate(sections)
    limiter = open_limiter(config, store_url, RedisOptions(timeout_s=30.0), metrics or Metrics())
    assert limiter is not None
    return limiter


async def test_requests_are_counted_by_key(store_url: str) -> None:
    limiter = limiter_of(store_url, key={"requests_per_minute": 2}, keys={"big": {"requests_per_minute": 50}})
    left = [(await limiter.admit("a", counts_tokens=True)).requests for _ in range(2)]
    assert [(one.limit, one.remaining) for one in left if one] == [(2, 1), (2, 0)]
    with pytest.raises(RateLimited) as raised:
        await limiter.admit("a", counts_tokens=False)
    assert 1 <= (raised.value.retry_after_s or 0) <= 60
    assert (await limiter.admit("b", counts_tokens=True)).requests is not None
    for _ in range(10):
        await limiter.admit("big", counts_tokens=True)
    await limiter.close()


async def test_tokens_are_a_debt_that_the_next_request_waits_for(store_url: str) -> None:
    limiter = limiter_of(store_url, key={"tokens_per_minute": 100, "tokens_per_day": 150})
    fresh = (await limiter.admit("a", counts_tokens=True)).tokens
    assert fresh is not None
    assert (fresh.limit, fresh.remaining) == (100, 100)
    await limiter.spend("a", [], 60)
    used = (await limiter.admit("a", counts_tokens=True)).tokens
    assert used is not None
    assert (used.limit, used.remaining) == (100, 40)
    assert 0 < used.reset_s <= 60
    await limiter.spend("a", [], 60)  # was admitted with 40 left
    with pytest.raises(RateLimited):
        await limiter.admit("a", counts_tokens=True)
    await limiter.admit("a", counts_tokens=False)  # feedback takes no tokens
    await limiter.close()


async def test_a_day_s_quota_ends_with_another_code(store_url: str) -> None:
    limiter = limiter_of(store_url, key={"tokens_per_day": 10})
    await limiter.spend("a", [], 10)
    with pytest.raises(QuotaExceeded) as raised:
        await limiter.admit("a", counts_tokens=True)
    assert raised.value.code == "insufficient_quota"
    assert 3_600 < (raised.value.retry_after_s or 0) <= 86_400
    await limiter.close()


async def test_people_are_counted_apart_and_by_tenant(store_url: str) -> None:
    limiter = limiter_of(store_url, user={"requests_per_minute": 1, "tokens_per_day": 50})
    await limiter.admit_users([ANN, BOB])
    for user in (ANN, BOB):
        with pytest.raises(RateLimited):
            await limiter.admit_users([user])
    await limiter.admit_users([UserKey("acme", "ann")])
    await limiter.spend("a", [UserKey("acme", "bob")], 50)
    with pytest.raises(QuotaExceeded):
        await limiter.admit_users([UserKey("acme", "bob")])
    await limiter.close()


async def test_without_the_store_everything_is_let_through_and_counted() -> None:
    metrics = Metrics()
    limiter = limiter_of("redis://127.0.0.1:1", metrics, key={"requests_per_minute": 1}, user={"tokens_per_day": 1})
    for _ in range(3):
        assert (await limiter.admit("a", counts_tokens=True)).requests is None
    await limiter.admit_users([ANN])
    await limiter.spend("a", [ANN], 5)
    assert b"palate_limit_failures_total 5.0" in metrics.render()
    await limiter.close()


def test_nothing_is_limited_by_default() -> None:
    assert open_limiter(LimitsConfig(), "redis://127.0.0.1:1", RedisOptions(), Metrics()) is None
