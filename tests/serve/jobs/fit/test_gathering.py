"""From the store to a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve.errors import ConfigurationError
from serve.jobs.fit.gathering import Gathered, gather, place_of
from tests.serve.jobs.fit.cases import PARENT, fill, judgements
from tests.user_store.samples import NOW, event
from user_store.sqlite_store import open_sqlite
from user_store.types import FeedbackKind, UserKey

SPACE = PARENT.feature_space


async def test_everybodys_newest_events_in_engine_features(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "palate.db")
    await fill(store, 6, 5)
    bystander = UserKey("acme", "somebody")
    await store.append_event(event("c", bystander, kind=FeedbackKind.COMMENT, value="nice and concise"))
    first = judgements(1, 5)[4]
    await store.withdraw_event(first.key, first.id)
    seen: list[int] = []
    gathered = await gather(store, SPACE, 3, seen.append)
    await store.close()
    assert sum(seen) == 7  # the one who only commented was looked at too
    assert (gathered.table.num_people, gathered.num_events) == (6, 18)
    assert np.bincount(gathered.table.people).tolist() == [3] * 6
    assert (gathered.first_at, gathered.last_at) == (NOW + 1, NOW + 4)
    told = judgements(2, 5)[4]  # of the first person in order of tenants and ids
    assert told.evidence is not None
    chosen = gathered.table.features[gathered.table.plus]
    assert np.abs(chosen - np.asarray(told.evidence["chosen"], np.float64)).max(axis=1).min() < 1e-6


async def test_what_was_replaced_does_not_count(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "palate.db")
    for told in judgements(1, 6):  # three pairs, each judged twice
        await store.append_event(replace(told, subject=f"pair-{int(told.created_at) % 3}"))
    gathered = await gather(store, SPACE, 10, lambda _: None)
    await store.close()
    assert (gathered.num_events, gathered.first_at, gathered.last_at) == (3, NOW + 3, NOW + 5)


async def test_what_was_gathered_can_be_kept(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "palate.db")
    await fill(store, 3, 4)
    gathered = await gather(store, SPACE, 10, lambda _: None)
    await store.close()
    gathered.save(tmp_path / "kept.npz")
    found = Gathered.load(tmp_path / "kept.npz")
    assert (found.num_events, found.first_at, found.last_at) == (12, gathered.first_at, gathered.last_at)
    np.testing.assert_array_equal(found.table.features, gathered.table.features)
    np.testing.assert_array_equal(found.table.people, gathered.table.people)
    np.testing.assert_array_equal(found.places, gathered.places)


def test_places_are_spread_and_stay() -> None:
    places = np.array([place_of(UserKey("t", f"u{number}")) for number in range(2000)])
    assert np.abs(np.histogram(places, 10, (0.0, 1.0))[0] - 200).max() < 60  # four standard deviations
    assert place_of(UserKey("t", "u1")) == places[1] != place_of(UserKey("s", "u1"))


async def test_feedback_of_another_feature_space_does_not_count(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "palate.db")
    await fill(store, 3, 4)
    other = replace(SPACE, directions=2.0 * SPACE.directions)
    with pytest.raises(ConfigurationError, match="no feedback in feature space"):
        await gather(store, other, 10, lambda _: None)
    await store.close()
