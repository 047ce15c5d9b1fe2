"""Everyone's feedback in the store, as one table over engine features. Knows nothing of how populations are fitted.

Privacy: user ids stay in the store; what leaves is numbers. A person counts with at most `max_events` of their newest
events, so that nobody outweighs the others. Withdrawn, pending and unreadable events do not count. A hash of a
person's id says where they fall; the lowest share is never fitted to, by any fit, and judges every version.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from router.feedback import FeedbackTable, tabulate
from router.types import Array, Event, Population
from serve.artifacts.artifact import Artifact
from serve.engines.feature_space import FeatureSpace
from serve.errors import ConfigurationError
from serve.preferences import Preferences
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
    people: list[list[Event]] = []
    places: list[float] = []
    times: list[float] = []
    async for key in _everybody(store):
        events = await _events_of(store, key, reader)
        progress(1)
        if events:
            people.append(events[-max_events:])
            places.append(place_of(key))
            times += [event.time_s for event in people[-1]]
    if not people:
        raise ConfigurationError(f"The store holds no feedback in feature space {space.id}.")
    table = tabulate(people)
    return Gathered(table, np.array(places), sum(map(len, people)), min(times), max(times))


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


async def _everybody(store: UserStore) -> AsyncIterator[UserKey]:
    async for tenant in store.list_tenants():
        async for key in store.iter_users(tenant):
            yield key


async def _events_of(store: UserStore, key: UserKey, reader: Preferences) -> list[Event]:
    log = await store.read_log(key)
    told = [event for event in log if not (event.is_withdrawn or event.is_pending)]
    return [replace(one, target="") for event in told for one in reader.events(event)]
