"""People as the request path sees them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve.editions import Edition
from serve.people import Candidates, People
from serve.preferences import Preferences, choices_of
from tests.patience import until
from tests.serve.artifacts_for_tests import P, make_artifact, make_space
from tests.user_store.samples import ANN, NOW, event, features
from user_store.errors import CorruptRecord, StoreUnavailable
from user_store.latent_index import LatentIndex
from user_store.open import open_store
from user_store.store import UserStore
from user_store.types import FeedbackEvent, FeedbackKind, StoredPosterior, UserKey, UserState


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[UserStore]:
    opened = await open_store(f"sqlite://{tmp_path}/palate.db")
    yield opened
    await opened.close()


@pytest.fixture
def people(store: UserStore) -> People:
    return People(store, Edition(Preferences(make_artifact())), clock=lambda: NOW, completion_ttl_s=60.0)


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
    people = People(store, Edition(Preferences(make_artifact())), pause_s=3_600.0)  # type: ignore[arg-type]  # only reads are asked for
    assert (await people.taste(ANN)).posterior is None
    assert store.num_reads == 1
    store.is_away = True
    with pytest.raises(StoreUnavailable, match="away"):
        await people.taste(ANN)
    store.is_away = False
    with pytest.raises(StoreUnavailable, match="a moment ago"):
        await people.taste(ANN)
    assert store.num_reads == 2


async def test_a_store_that_was_away_is_asked_again_after_the_pause() -> None:
    store = CountingStore()
    people = People(store, Edition(Preferences(make_artifact())), pause_s=0.01)  # type: ignore[arg-type]  # as above
    store.is_away = True
    with pytest.raises(StoreUnavailable, match="away"):
        await people.taste(ANN)
    store.is_away = False

    async def is_read() -> bool:
        with contextlib.suppress(StoreUnavailable):
            await people.taste(ANN)
        return store.num_reads == 2

    await until(is_read)


async def test_before_the_store_is_there_nothing_is_known() -> None:
    people = People(None, Edition(Preferences(make_artifact())))
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
    people = People(store, Edition(Preferences(make_artifact())), keeps_texts=True)
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


async def say(people: People, key: UserKey, event_id: str) -> None:
    """Let somebody like the first of two remembered answers."""
    name = f"c-{key.user}-{event_id}"
    answer = Candidates(features(1, 2, P), ["base"] * 2, [0])
    await people.remember(people.record(key, name, answer, created_at=NOW))
    said = event(event_id, key, completion_ids=(name,))
    record = await people.store.get_completion(key.tenant, name, now=NOW)
    evidence = people.preferences.evidence(said, [record])
    await people.store.append_event(event(event_id, key, completion_ids=(name,), evidence=evidence))
    await people.learn(key)


async def test_another_artifact_after_a_restart_reads_people_in_the_background(
    people: People, store: UserStore
) -> None:
    await say(people, ANN, "e1")
    newer = People(store, Edition(Preferences(make_artifact("a2"))), clock=lambda: NOW)
    assert (await newer.taste(ANN)).posterior is None
    await newer.settled()
    posterior = (await newer.taste(ANN)).posterior
    assert posterior is not None
    assert posterior.population_version == "a2"


BEN = UserKey(ANN.tenant, "ben")


async def test_people_keep_their_old_pair_until_their_log_is_read_anew(people: People) -> None:
    await say(people, ANN, "e1")
    await people.adopt(Edition(Preferences(make_artifact("a2"))))
    assert people.artifact.version == "a2"
    first = await people.taste(ANN)
    assert first.posterior is not None
    assert (first.artifact.version, first.posterior.population_version) == ("a1", "a1")
    nobody = await people.taste(BEN)
    assert (nobody.artifact.version, nobody.posterior) == ("a2", None)
    await people.settled()
    second = await people.taste(ANN)
    assert second.posterior is not None
    assert (second.artifact.version, second.posterior.population_version) == ("a2", "a2")


async def test_several_people_are_read_with_one_artifact(people: People) -> None:
    await say(people, ANN, "e1")
    await say(people, BEN, "e1")
    alike = await people.tastes([ANN, BEN])
    await people.adopt(Edition(Preferences(make_artifact("a2"))))
    old = await people.tastes([ANN, BEN])
    assert {taste.artifact.version for taste in old} == {"a1"}
    await people.settled()
    await people.store.put_posterior(  # as if Ben's log could not be read anew yet
        BEN, replace(await _posterior(people, BEN), population="a1"), expected_version=await _version(people, BEN)
    )
    mixed = await people.tastes([ANN, BEN])
    assert {taste.artifact.version for taste in mixed} == {"a2"}
    for taste, before in zip(mixed, alike, strict=True):
        assert taste.posterior is not None
        assert before.posterior is not None
        assert taste.posterior.population_version == "a2"
        np.testing.assert_allclose(taste.posterior.mean, before.posterior.mean)  # a2 differs by its name alone
    assert await people.tastes([]) == []


async def _posterior(people: People, key: UserKey) -> StoredPosterior:
    stored = (await people.store.get_state(key)).posterior
    assert stored is not None
    return stored


async def _version(people: People, key: UserKey) -> int:
    return (await _posterior(people, key)).version


async def test_everybody_is_read_anew_once(people: People) -> None:
    for key in (ANN, BEN, UserKey("other", "carl")):
        await say(people, key, f"e-{key.user}")
    assert await people.renew() == 0
    await people.adopt(Edition(Preferences(make_artifact("a2"))))
    assert await people.renew() == 3
    assert await people.renew() == 0
    assert (await _posterior(people, BEN)).population == "a2"


async def test_a_log_that_cannot_be_read_keeps_nobody_elses_from_being_read_anew(
    people: People, store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (ANN, BEN):
        await say(people, key, f"e-{key.user}")
    read_log = store.read_log

    async def damaged(key: UserKey, *, after_seq: int = 0) -> list[FeedbackEvent]:
        if key == ANN:
            raise CorruptRecord("event 1 cannot be read")
        return await read_log(key, after_seq=after_seq)

    monkeypatch.setattr(store, "read_log", damaged)
    await people.adopt(Edition(Preferences(make_artifact("a2"))))
    assert await people.renew() == 1
    assert (await _posterior(people, BEN)).population == "a2"


async def test_the_index_of_an_edition_that_left_is_closed_after_the_next(tmp_path: Path, store: UserStore) -> None:
    def edition(version: str) -> Edition:
        return Edition(Preferences(make_artifact(version)), LatentIndex(3, version), tmp_path / version)

    people = People(store, edition("a1"), clock=lambda: NOW)
    await say(people, ANN, "e1")
    first = people.index
    assert first is not None
    assert await first.size(ANN.tenant) == 1
    await first.save(tmp_path / "a1")
    await people.adopt(edition("a2"))
    assert not (tmp_path / "a1").exists()  # or who is erased now would stay in it
    assert await first.size(ANN.tenant) == 1  # for requests that took it before
    await people.renew()
    assert people.index is not None
    assert await people.index.size(ANN.tenant) == 1
    await people.erase(ANN)
    assert await people.index.size(ANN.tenant) == 0
    await people.adopt(edition("a3"))
    with pytest.raises(RuntimeError):
        await first.size(ANN.tenant)
    await people.close()


async def test_an_edition_of_another_feature_space_is_refused(people: People) -> None:
    other = replace(make_artifact("a2"), feature_space=make_space("another-model"))
    with pytest.raises(ValueError, match="restart the server"):
        await people.adopt(Edition(Preferences(other)))
    assert people.artifact.version == "a1"
