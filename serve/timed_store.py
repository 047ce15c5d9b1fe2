"""A store that is timed: the calls that answers and feedback wait for are observed, all others go straight through.

Adds no behaviour; what the store raises is raised. Knows no backend.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from serve.metrics import STORE_CALLS, Metrics
from user_store.errors import StoreUnavailable
from user_store.store import UserStore


def timed(store: UserStore, metrics: Metrics, kind: str) -> UserStore:
    """Wrap a store; `kind` names it in the metrics."""
    return cast("UserStore", _TimedStore(store, metrics, kind))


class _TimedStore:
    """Looks like the store it wraps."""

    def __init__(self, store: UserStore, metrics: Metrics, kind: str) -> None:
        self._store = store
        self._metrics = metrics
        self._up = metrics.store_up.labels(kind)
        self._up.set(1)  # it was just opened
        for name in STORE_CALLS:
            setattr(self, name, self._timed(name, getattr(store, name)))

    def __getattr__(self, name: str) -> Any:
        """Reach through for what is not timed."""
        return getattr(self._store, name)

    def _timed(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        seconds = self._metrics.store_seconds.labels(name)

        @functools.wraps(call)
        async def observed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                result = await call(*args, **kwargs)
            except StoreUnavailable:
                self._up.set(0)
                raise
            finally:
                seconds.observe(time.perf_counter() - begin)
            self._up.set(1)
            return result

        return observed
