"""People with known tastes over four raw features, as a store and as a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serve.artifacts.artifact import Artifact
from serve.preferences import Preferences
from tests.serve.artifacts_for_tests import P, make_artifact
from tests.user_store.samples import NOW, event
from user_store.sqlite_store import SqliteStore
from user_store.types import FeedbackEvent, FeedbackKind, UserKey

PARENT = make_artifact()


def knowing(version: str = "knowing") -> Artifact:
    """An artifact that knows in what these people differ, which the parent does not."""
    population = PARENT.population
    basis = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.5]])
    covariances = np.stack([np.diag([1.0, 1.0, 16.0])] * 2)
    return replace(PARENT, population=replace(population, basis=basis, covariances=covariances, version=version))


def judgements(person: int, num: int, seed: int = 0) -> list[FeedbackEvent]:
    """Comparisons by somebody who likes (even numbers) or dislikes (odd ones) the fourth raw feature."""
    rng = np.random.default_rng([seed, person])
    taste = np.array([0.0, 0.0, -1.0, 1.0]) * (4.0 if person % 2 == 0 else -4.0)
    reader = Preferences(PARENT)
    events = []
    for number in range(num):
        pair = rng.normal(size=(2, P)).astype(np.float32)
        value = 0 if rng.random() < 1.0 / (1.0 + np.exp(-taste @ (pair[0] - pair[1]))) else 1
        bare = event("x", kind=FeedbackKind.COMPARISON, value=value)
        events.append(
            event(
                f"e{person}-{number}",
                UserKey("acme" if person % 3 else "other", f"user-{person}"),
                kind=FeedbackKind.COMPARISON,
                value=value,
                created_at=NOW + number,
                evidence=reader.evidence(bare, (), pair),
            )
        )
    return events


async def fill(store: SqliteStore, num_people: int, num_events: int) -> None:
    for person in range(num_people):
        await store.append_events(judgements(person, num_events))
