"""People as the request path sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from serve.people import Candidates, People
from serve.preferences import choices_of
from tests.serve.artifacts_for_tests import P, make_artifact
from tests.user_store.samples import ANN, NOW, event, features
from user_store.errors import StoreUnavailable
from user_store.open import open_store
from user_store.store import UserStore
from user_store.types import FeedbackKind, UserKey, UserState


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[UserStore]:
    opened = await open_store(f"sqlite://{tmp_path}/palate.db")
    yield opened
    await opened.close()


@pytest.fixture
def people(store: UserStore) -> People:
    return People(store, make_artifact(), clock=lambda: NOW, completion_ttl_s=60.0)


class CountingStore:
    """Counts reads of a person, and fails when told to."""

    def __init__(self) -> None:
        self.num_reads = 0
        self.is_away = False

    async def get_state(self, key: UserKey) -> UserState:
        self.num_reads += 1
        if self.is_away:
            raise StoreUnavailable("away")
        return UserState(key)


async def test_a_taste_costs_one_read_and_a_store_that_is_away_is_not_asked_again_at_once() -> None:
    store = CountingStore()
    people = People(store, make_artifact(), pause_s=0.05)  # type: ignore[arg-type]  # only reads are asked for
    assert (await people.taste(ANN)).posterior is None
    assert store.num_reads == 1
    store.is_away = True
    with pytest.raises(StoreUnavailable, match="away"):
        await people.taste(ANN)
    store.is_away = False
    with pytest.raises(StoreUnavailable, match="a moment ago"):
        await people.taste(ANN)
    assert store.num_reads == 2
    await asyncio.sleep(0.06)
    await people.taste(ANN)
    assert store.num_reads == 3


async def test_before_the_store_is_there_nothing_is_known() -> None:
    people = People(None, make_artifact())
    assert not people.is_open
    with pytest.raises(StoreUnavailable, match="not be reached yet"):
        await people.taste(ANN)


def test_a_record_keeps_measured_candidates_in_the_order_they_were_served(people: People) -> None:
    rows = features(1, 4, P)
    rows[1] = np.nan
    arms = ["base", "steered", "steered", "adapter"]
    record = people.record(ANN, "c1", Candidates(rows, arms, [3, 1, 0], ["third", "", "first"]), created_at=NOW)
    assert record.arms == ("base", "steered", "adapter")
    assert record.chosen == 2
    assert record.expires_at == NOW + 60.0
    np.testing.assert_array_equal(choices_of(record), rows[[3, 0]])
    assert record.texts is None
    assert "third" not in str(record.payload)


def test_texts_are_kept_where_the_operator_says_so(store: UserStore) -> None:
    people = People(store, make_artifact(), keeps_texts=True)
    candidates = Candidates(features(1, 3, P), ["base", "steered", "steered"], [2], ["the answer"])
    assert people.record(ANN, "c1", candidates, created_at=NOW).texts == ("", "", "the answer")


def test_an_answer_without_features_is_not_remembered(people: People) -> None:
    with pytest.raises(ValueError, match="nothing to remember"):
        people.record(ANN, "c1", Candidates(np.full((1, P), np.nan, np.float32), ["base"], [0]), created_at=NOW)


async def test_remembering_an_answer_settles_what_waited_for_it(people: People) -> None:
    await people.announce(ANN, "c1", NOW)
    waiting = event("e1", kind=FeedbackKind.THUMB, value=-1, completion_ids=("c1",), is_pending=True)
    await people.store.append_event(waiting)
    assert (await people.taste(ANN)).posterior is None
    await people.remember(people.record(ANN, "c1", Candidates(features(1, 2, P), ["base"] * 2, [0]), created_at=NOW))
    posterior = (await people.taste(ANN)).posterior
    assert posterior is not None
    assert posterior.num_events == 1


async def test_a_new_artifact_reads_everybody_anew_in_the_background(people: People, store: UserStore) -> None:
    await people.remember(people.record(ANN, "c1", Candidates(features(1, 2, P), ["base"] * 2, [0]), created_at=NOW))
    said = event("e1", completion_ids=("c1",))
    record = await store.get_completion(ANN.tenant, "c1", now=NOW)
    evidence = people.preferences.evidence(said, [record])
    await store.append_event(event("e1", completion_ids=("c1",), evidence=evidence))
    await people.learn(ANN)
    newer = People(store, make_artifact("a2"), clock=lambda: NOW)
    assert (await newer.taste(ANN)).posterior is None
    await newer.settled()
    posterior = (await newer.taste(ANN)).posterior
    assert posterior is not None
    assert posterior.population_version == "a2"
