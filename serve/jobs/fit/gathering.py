"""Everyone's feedback in the store, as one table over engine features. Knows nothing of how populations are fitted.

Privacy: user ids stay in the store; what leaves is numbers. A person counts with at most `max_events` of their newest
events, so that nobody outweighs the others. Withdrawn, replaced, pending and unreadable events do not count. A hash
of a person's id says where they fall; the lowest share is never fitted to, by any fit, and judges every version.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from router.feedback import FeedbackTable
from router.tabulation import Tabulation
from router.types import Array, Event, Population
from serve.artifacts.artifact import Artifact
from serve.engines.feature_space import FeatureSpace
from serve.errors import ConfigurationError
from serve.jobs.store import run as run_job
from serve.preferences import Preferences
from user_store.folding import effective
from user_store.open import open_store
from user_store.redis_client import RedisOptions
from user_store.store import UserStore
from user_store.types import UserKey

ARRAYS = ("features", "people", "groups", "plus", "minus", "thresholds", "lows", "highs", "weights", "num_outcomes")


@dataclass(frozen=True)
class Gathered:
    """People's feedback and the window it comes from."""

    table: FeedbackTable
    places: Array  # (U,) in [0, 1), by hash of their ids
    num_events: int
    first_at: float  # Unix time in seconds
    last_at: float

    def save(self, path: Path) -> None:
        """Write it, aside and renamed."""
        aside = path.with_name(f".{path.name}")
        with aside.open("wb") as file:
            numbers = {"num_people": self.table.num_people, "num_events": self.num_events}
            times = {"first_at": self.first_at, "last_at": self.last_at}
            arrays = {name: getattr(self.table, name) for name in ARRAYS} | {"places": self.places}
            np.savez(file, **arrays, **numbers, **times)  # type: ignore[arg-type]
        aside.rename(path)

    @classmethod
    def load(cls, path: Path) -> Gathered:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            table = FeedbackTable(**{name: arrays[name] for name in ARRAYS}, num_people=int(arrays["num_people"]))
            window = float(arrays["first_at"]), float(arrays["last_at"])
            return cls(table, arrays["places"], int(arrays["num_events"]), *window)


async def gather(store: UserStore, space: FeatureSpace, max_events: int, progress: Callable[[int], object]) -> Gathered:
    """Read every person's log once; `progress` is called with 1 for each.

    Raises:
        ConfigurationError: nobody's feedback counts in this feature space.
    """
    reader = raw_reader(space)
    tabulation = Tabulation(dtype=np.float32)  # as engines measure
    places: list[float] = []
    first_at, last_at, num_events = np.inf, -np.inf, 0
    async for key in everybody(store):
        events = await _events_of(store, key, reader)
        progress(1)
        if events:
            newest = events[-max_events:]
            tabulation.add(newest)
            places.append(place_of(key))
            num_events += len(newest)
            first_at = min(first_at, *(event.time_s for event in newest))
            last_at = max(last_at, *(event.time_s for event in newest))
    if not num_events:
        raise ConfigurationError(f"The store holds no feedback in feature space {space.id}.")
    return Gathered(tabulation.table(), np.array(places), num_events, first_at, last_at)


def read_everybody(url: str, options: RedisOptions, space: FeatureSpace, max_events: int) -> Gathered:
    """Open the store, gather, and close it; with a progress bar. Raises as `gather` and `open_store` do."""

    async def read() -> Gathered:
        store = await open_store(url, options)
        try:
            with tqdm(unit=" people", desc="gather", file=sys.stderr) as bar:
                return await gather(store, space, max_events, bar.update)
        finally:
            await store.close()

    return run_job(read())


def place_of(key: UserKey) -> float:
    """Return where a person falls, in [0, 1): the same in every run and every store."""
    digest = hashlib.sha256(f"held out\0{key.tenant}\0{key.user}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def raw_reader(space: FeatureSpace) -> Preferences:
    """Return a reading of stored feedback whose events carry engine features (P,) as they are."""
    size = space.num_features
    population = Population(
        basis=np.eye(size),
        center=np.zeros(size),
        scale=np.ones(size),
        mixture_weights=np.ones(1),
        means=np.zeros((1, size)),
        covariances=np.eye(size)[None],
        base_weights=np.zeros(size),
    )
    return Preferences(Artifact(population, space, response=np.eye(size)))


async def everybody(store: UserStore) -> AsyncIterator[UserKey]:
    """Yield every person of every tenant."""
    async for tenant in store.list_tenants():
        async for key in store.iter_users(tenant):
            yield key


async def _events_of(store: UserStore, key: UserKey, reader: Preferences) -> list[Event]:
    standing = effective(await store.read_log(key))
    return [replace(one, target="") for event in standing for one in reader.events(event)]
