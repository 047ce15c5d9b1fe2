"""A timed store counts what it is asked and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve.metrics import STORE_CALLS, Metrics
from serve.timed_store import timed
from user_store.errors import StoreUnavailable
from user_store.open import open_store
from user_store.store import UserStore
from user_store.types import UserKey

ANN = UserKey("default", "ann")


def value(metrics: Metrics, series: str) -> float:
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith(f"{series} ")]
    return float(lines[0].rsplit(" ", 1)[1])


async def test_calls_are_timed_and_answered(tmp_path: Path) -> None:
    metrics = Metrics()
    store = timed(await open_store(f"sqlite:{tmp_path}/palate.db"), metrics, "sqlite")
    assert (await store.get_state(ANN)).key == ANN
    assert (await store.health()).is_available
    assert [tenant async for tenant in store.list_tenants()] == []
    assert value(metrics, 'palate_store_seconds_count{call="get_state"}') == 1
    assert value(metrics, 'palate_store_up{store="sqlite"}') == 1
    await store.close()


async def test_a_store_that_is_away_shows(tmp_path: Path) -> None:
    class Away:
        async def fail(self, *_: object) -> None:
            raise StoreUnavailable("gone")

        def __getattr__(self, name: str) -> object:
            return self.fail

    metrics = Metrics()
    store: UserStore = timed(Away(), metrics, "redis")  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable):
        await store.get_state(ANN)
    assert value(metrics, 'palate_store_up{store="redis"}') == 0
    assert value(metrics, 'palate_store_seconds_count{call="get_state"}') == 1


def test_the_timed_calls_are_the_store_s() -> None:
    assert set(STORE_CALLS) <= set(dir(UserStore))
