"""What every store must do, on SQLite, on one Redis server and on a Redis cluster."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.user_store.samples import ANN, NOW, announced, completion, event, features, posterior
from user_store import codec
from user_store.errors import Conflict, Expired, NotFound, StoreUnavailable
from user_store.open import open_store
from user_store.store import TOMBSTONE_S, UserStore
from user_store.types import EventFilter, FeedbackEvent, FeedbackKind, LogPosition, Profile, UserKey, UserState

BOB = UserKey("acme", "bob")
EVE = UserKey("evil", "ann")  # the same user id in another tenant
AWKWARD = ["a}b{:c/é💡 *?[x]", "x" * 256, "..", "%41", "a:state", "}:state", '"\\']


def content(one: FeedbackEvent) -> tuple[object, ...]:
    evidence = None if one.evidence is None else codec.dump_arrays(one.evidence)
    return one.key, one.seq, one.is_withdrawn, one.is_pending, codec.event_body(one), evidence


async def ids(store: UserStore, tenant: str = "acme", **query: Any) -> tuple[list[str], bool]:
    page = await store.list_events(tenant, EventFilter(**query))
    return [one.id for one in page.data], page.has_more


class TestEvents:
    async def test_an_event_comes_back_as_it_was(self, store: UserStore) -> None:
        given = event(
            "e1",
            kind=FeedbackKind.COMPARISON,
            completion_ids=("c1", "c2"),
            value=[0, 2.5, None, {"a": "b"}, False],
            reason="shorter, please \ud83d 💡\0",
            metadata={"app": "x"},
            payload={"candidates": ["one", "two"]},
            evidence={"chosen": features(0, 8), "rejected": features(1, 3, 8), "none": np.zeros((0, 8), np.float32)},
            idempotency_key="key 1",
            subject="c1/c2",
            is_inferred=True,
        )
        receipt = await store.append_event(given)
        (found,) = await store.read_log(ANN)
        assert content(found) == content(replace(given, seq=1))
        assert (receipt.event_id, receipt.is_duplicate, receipt.position.seq) == ("e1", False, 1)
        assert content(await store.find_event("acme", "e1")) == content(found)

    @pytest.mark.parametrize("value", [False, 0, "", []])
    async def test_empty_values_are_not_lost(self, store: UserStore, value: Any) -> None:
        await store.append_event(event("e1", value=value))
        found = await store.find_event("acme", "e1")
        assert (type(found.value), found.value) == (type(value), value)

    async def test_events_outlive_the_process(self, store: UserStore, store_url: str) -> None:
        await store.append_event(event("e1"))
        await store.close()
        again = await open_store(store_url)
        assert [one.id for one in await again.read_log(ANN)] == ["e1"]
        await again.close()

    async def test_the_same_id_is_a_duplicate(self, store: UserStore) -> None:
        first = await store.append_event(event("e1", value=1))
        second = await store.append_event(event("e1", value=-1))
        assert (second.is_duplicate, second.position) == (True, first.position)
        assert [one.value for one in await store.read_log(ANN)] == [1]

    async def test_the_same_idempotency_key_is_a_duplicate_and_names_the_first(self, store: UserStore) -> None:
        await store.append_event(event("e1", idempotency_key="k"))
        second = await store.append_event(event("e2", idempotency_key="k"))
        assert (second.event_id, second.is_duplicate) == ("e1", True)
        with pytest.raises(NotFound):
            await store.find_event("acme", "e2")

    async def test_idempotency_keys_are_scoped_by_person(self, store: UserStore) -> None:
        for number, key in enumerate((ANN, BOB, EVE)):
            receipt = await store.append_event(event(f"e{number}", key, idempotency_key="k"))
            assert not receipt.is_duplicate

    async def test_a_batch_is_appended_in_order_and_recognises_duplicates(self, store: UserStore) -> None:
        await store.append_event(event("e2"))
        receipts = await store.append_events([event("e1"), event("e2"), event("e3"), event("e3")])
        assert [receipt.is_duplicate for receipt in receipts] == [False, True, False, True]
        assert [one.id for one in await store.read_log(ANN)] == ["e2", "e1", "e3"]
        assert await store.append_events([]) == []

    async def test_a_batch_over_two_people_is_refused(self, store: UserStore) -> None:
        with pytest.raises(ValueError, match="one person"):
            await store.append_events([event("e1"), event("e2", BOB)])

    async def test_long_logs_and_batches_come_back_whole(self, store: UserStore) -> None:
        await store.append_events([event(f"e{number}") for number in range(1234)])
        assert [one.seq for one in await store.read_log(ANN, after_seq=10)] == list(range(11, 1235))

    async def test_large_evidence_comes_back_whole(self, store: UserStore) -> None:
        large = [event(f"e{number}", evidence={"x": features(number, 200, 1000)}) for number in range(12)]
        await store.append_events(large)
        found = await store.read_log(ANN)
        assert [content(one)[-1] for one in found] == [content(one)[-1] for one in large]

    async def test_concurrent_appends_get_one_number_each(self, store: UserStore) -> None:
        await asyncio.gather(*(store.append_event(event(f"e{number % 150}")) for number in range(300)))
        log = await store.read_log(ANN)
        assert [one.seq for one in log] == list(range(1, 151))
        assert {one.id for one in log} == {f"e{number}" for number in range(150)}


class TestLists:
    async def test_pages_follow_the_last_id(self, store: UserStore) -> None:
        for number in range(5):
            await store.append_event(event(f"e{number}"))
        assert await ids(store, user="ann", limit=2) == (["e0", "e1"], True)
        assert await ids(store, user="ann", limit=2, after="e1") == (["e2", "e3"], True)
        assert await ids(store, user="ann", limit=2, after="e3") == (["e4"], False)
        assert await ids(store, user="ann", limit=5) == (["e0", "e1", "e2", "e3", "e4"], False)

    async def test_without_a_user_people_come_in_order_of_their_ids(self, store: UserStore) -> None:
        for number, user in enumerate(["bob", "ann", "é", "Zoe", "bob"]):
            await store.append_event(event(f"e{number}", UserKey("acme", user)))
        assert await ids(store) == (["e3", "e1", "e0", "e4", "e2"], False)
        assert await ids(store, after="e0", limit=1) == (["e4"], True)
        assert await ids(store, after="e4") == (["e2"], False)

    async def test_filters_by_kind_and_time_reach_past_many_others(self, store: UserStore) -> None:
        await store.append_events([event(f"e{number}", created_at=NOW + number) for number in range(600)])
        await store.append_event(event("c", kind=FeedbackKind.COMMENT, created_at=NOW))
        assert await ids(store, kind=FeedbackKind.COMMENT) == (["c"], False)
        assert await ids(store, user="ann", kind=FeedbackKind.COMMENT) == (["c"], False)
        assert await ids(store, since=NOW + 597, limit=2) == (["e597", "e598"], True)

    async def test_an_unknown_after_is_not_found(self, store: UserStore) -> None:
        await store.append_event(event("e1"))
        await store.append_event(event("e2", EVE))
        for query in (EventFilter(after="nope"), EventFilter(after="e2"), EventFilter(after="e1", user="bob")):
            with pytest.raises(NotFound):
                await store.list_events("acme", query)

    async def test_an_empty_tenant_lists_nothing(self, store: UserStore) -> None:
        assert await ids(store) == ([], False)


class TestRevisions:
    async def test_a_withdrawal_keeps_the_event_and_changes_the_revision_once(self, store: UserStore) -> None:
        await store.append_event(event("e1"))
        assert (await store.withdraw_event(ANN, "e1")).is_withdrawn
        assert (await store.withdraw_event(ANN, "e1")).is_withdrawn
        assert [one.is_withdrawn for one in await store.read_log(ANN)] == [True]
        position = (await store.get_state(ANN)).position
        assert (position.seq, position.revision) == (1, 1)

    @pytest.mark.parametrize("key", [BOB, EVE])
    async def test_nobody_withdraws_anothers_event(self, store: UserStore, key: UserKey) -> None:
        await store.append_event(event("e1"))
        with pytest.raises(NotFound):
            await store.withdraw_event(key, "e1")
        assert not (await store.find_event("acme", "e1")).is_withdrawn

    async def test_an_event_about_the_same_subject_changes_the_revision(self, store: UserStore) -> None:
        revisions = []
        for number, subject in enumerate(["c1", "c2", None, None, "c1"]):
            receipt = await store.append_event(event(f"e{number}", subject=subject))
            revisions.append(receipt.position.revision)
        assert revisions == [0, 0, 0, 0, 1]

    async def test_a_withdrawn_event_can_be_brought_along(self, store: UserStore) -> None:
        await store.append_event(event("e1", is_withdrawn=True))
        assert (await store.find_event("acme", "e1")).is_withdrawn


class TestState:
    async def test_the_unknown_have_an_empty_state(self, store: UserStore) -> None:
        state = await store.get_state(ANN)
        assert (state.is_known, state.is_current, state.posterior) == (False, True, None)
        assert state.profile == Profile()

    async def test_one_read_shows_profile_posterior_and_position(self, store: UserStore) -> None:
        receipt = await store.append_event(event("e1"))
        given = posterior(3, receipt.position)
        assert await store.put_posterior(ANN, given, expected_version=0) == 1
        profile = Profile(pins={"concise": 1.5}, bars=frozenset({"lists"}), is_learning_paused=True)
        assert await store.put_profile(ANN, profile, expected_version=0) == 1
        state = await store.get_state(ANN)
        assert state.profile == replace(profile, created_at=NOW, version=1)
        assert state.is_current
        assert state.posterior is not None
        assert codec.dump_arrays(state.posterior.arrays) == codec.dump_arrays(given.arrays)
        assert (state.posterior.population, state.posterior.updated_at) == ("population-1", NOW)
        assert (state.posterior.position, state.posterior.version) == (receipt.position, 1)
        await store.append_event(event("e2"))
        assert not (await store.get_state(ANN)).is_current

    async def test_a_posterior_needs_the_version_it_was_computed_from(self, store: UserStore) -> None:
        position = (await store.append_event(event("e1"))).position
        await store.put_posterior(ANN, posterior(1, position), expected_version=0)
        with pytest.raises(Conflict) as caught:
            await store.put_posterior(ANN, posterior(2, position), expected_version=0)
        assert caught.value.current_version == 1
        assert await store.put_posterior(ANN, posterior(2, position), expected_version=1) == 2

    async def test_of_concurrent_writers_one_wins_each_version(self, store: UserStore) -> None:
        position = (await store.append_event(event("e1"))).position
        writes = [store.put_posterior(ANN, posterior(n, position), expected_version=0) for n in range(20)]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [outcome for outcome in outcomes if not isinstance(outcome, Conflict)] == [1]

    async def test_a_posterior_may_come_before_any_event_but_not_beside_one(self, store: UserStore) -> None:
        assert await store.put_posterior(ANN, posterior(), expected_version=0) == 1
        assert (await store.get_state(ANN)).is_known
        await store.append_event(event("e1", BOB))
        with pytest.raises(Conflict):
            await store.put_posterior(BOB, posterior(), expected_version=0)

    async def test_a_profile_needs_the_version_it_was_read_with(self, store: UserStore) -> None:
        await store.put_profile(ANN, Profile(created_at=NOW), expected_version=0)
        with pytest.raises(Conflict) as caught:
            await store.put_profile(ANN, Profile(bars=frozenset({"emoji"})), expected_version=0)
        assert caught.value.current_version == 1

    @pytest.mark.parametrize("user", AWKWARD)
    async def test_awkward_user_ids_stay_apart(self, store: UserStore, user: str) -> None:
        key = UserKey("acme", user)
        await store.append_event(event("e1", key))
        await store.append_event(event("e2", UserKey("acme", "a")))
        assert [one.id for one in await store.read_log(key)] == ["e1"]
        assert (await store.find_event("acme", "e1")).key == key
        assert [found async for found in store.iter_users("acme")] == sorted([key, UserKey("acme", "a")])


class TestCompletions:
    async def test_a_completion_comes_back_as_it_was(self, store: UserStore) -> None:
        given = completion("c1", texts=("a", "b"), payload={"prompt": "p"})
        await store.put_completion(given)
        found = await store.get_completion("acme", "c1", now=NOW)
        assert codec.completion_body(found) == codec.completion_body(given)
        assert found.features is not None
        np.testing.assert_array_equal(found.features, features(7, 2, 3))
        assert (found.key, found.features.flags.writeable) == (ANN, False)

    async def test_expired_and_unknown_differ(self, store: UserStore) -> None:
        await store.put_completion(completion("c1"))
        await store.get_completion("acme", "c1", now=NOW + 3599)
        for now in (NOW + 3600, NOW + 3600 + TOMBSTONE_S - 1):
            with pytest.raises(Expired):
                await store.get_completion("acme", "c1", now=now)
        for tenant, completion_id, now in (
            ("acme", "c2", NOW),
            ("evil", "c1", NOW),
            ("acme", "c1", NOW + 3600 + TOMBSTONE_S),
        ):
            with pytest.raises(NotFound):
                await store.get_completion(tenant, completion_id, now=now)

    async def test_expired_completions_leave_with_later_ones(self, store: UserStore) -> None:
        await store.put_completion(completion("c1"))
        later = NOW + 4000
        await store.put_completion(completion("c2", created_at=later, expires_at=later + 10))
        with pytest.raises(Expired):
            await store.get_completion("acme", "c1", now=later)
        assert [record.id for record in await store.list_completions(ANN, now=later)] == ["c2"]

    async def test_an_announced_completion_is_known_before_it_is_stored(self, store: UserStore) -> None:
        await store.announce_completion(announced("c1"))
        record = await store.get_completion("acme", "c1", now=NOW)
        assert (record.is_announced_only, record.key) == (True, ANN)
        await store.put_completion(completion("c1"))
        await store.announce_completion(announced("c1"))
        assert not (await store.get_completion("acme", "c1", now=NOW)).is_announced_only

    async def test_feedback_that_came_first_is_handed_to_the_completion(self, store: UserStore) -> None:
        await store.append_event(event("e1", completion_ids=("c1",), is_pending=True))
        await store.append_event(event("e2", completion_ids=("c2",), is_pending=True))
        await store.append_event(event("e3", completion_ids=("c1",), evidence={"x": features(0, 2)}))
        await store.append_event(event("e4", completion_ids=("c2", "c1"), is_pending=True))
        waiting = await store.put_completion(completion("c1"))
        assert [one.id for one in waiting] == ["e1", "e4"]
        assert await store.attach_evidence(ANN, "e1", {"chosen": features(1, 3)})
        assert not await store.attach_evidence(ANN, "e1", {"chosen": features(2, 3)})
        found = await store.find_event("acme", "e1")
        assert not found.is_pending
        assert found.evidence is not None
        np.testing.assert_array_equal(found.evidence["chosen"], features(1, 3))
        assert (await store.get_state(ANN)).position.revision == 1
        assert [one.id for one in await store.put_completion(completion("c1"))] == ["e4"]

    async def test_what_waits_is_counted_and_listed(self, store: UserStore) -> None:
        assert await store.list_pending(ANN) == []
        await store.append_event(event("e1", completion_ids=("c1",), is_pending=True))
        await store.append_event(event("e2", evidence={"x": features(0, 2)}))
        for name in ("e3", "e4"):
            await store.append_event(event(name, completion_ids=("c2",), is_pending=True))
        assert [one.id for one in await store.list_pending(ANN)] == ["e1", "e3", "e4"]
        assert (await store.get_state(ANN)).num_pending == 3
        await store.attach_evidence(ANN, "e1", {"chosen": features(1, 3)})
        await store.withdraw_event(ANN, "e4")
        assert [one.id for one in await store.list_pending(ANN)] == ["e3"]
        assert (await store.get_state(ANN)).num_pending == 1
        assert ((await store.get_state(BOB)).num_pending, await store.list_pending(BOB)) == (0, [])

    async def test_empty_evidence_settles_too(self, store: UserStore) -> None:
        await store.append_event(event("e1", completion_ids=("c1",), is_pending=True))
        assert await store.attach_evidence(ANN, "e1", {})
        (found,) = await store.read_log(ANN)
        assert (found.is_pending, found.evidence, await store.list_pending(ANN)) == (False, {}, [])

    async def test_a_withdrawn_event_waits_for_nothing(self, store: UserStore) -> None:
        await store.append_event(event("e1", completion_ids=("c1",), is_pending=True))
        await store.withdraw_event(ANN, "e1")
        assert await store.put_completion(completion("c1")) == []
        assert not await store.attach_evidence(ANN, "e1", {"chosen": features(1, 3)})
        with pytest.raises(NotFound):
            await store.attach_evidence(BOB, "e1", {"chosen": features(1, 3)})


class TestDeletion:
    async def fill(self, store: UserStore, key: UserKey, prefix: str) -> LogPosition:
        await store.append_event(event(f"{prefix}e1", key, idempotency_key="k"))
        receipt = await store.append_event(event(f"{prefix}e2", key, completion_ids=("x",), is_pending=True))
        await store.put_posterior(key, posterior(1, receipt.position), expected_version=0)
        await store.put_profile(key, Profile(pins={"formal": 1.0}), expected_version=0)
        await store.put_completion(completion(f"{prefix}c1", key))
        return receipt.position

    async def test_deletion_takes_everything_of_one_person_only(self, store: UserStore) -> None:
        for key, prefix in ((ANN, "a"), (BOB, "b"), (EVE, "v")):
            await self.fill(store, key, prefix)
        receipt = await store.delete_user(ANN)
        assert (receipt.events, receipt.completions, receipt.posteriors, receipt.profiles) == (2, 1, 1, 1)
        assert (await store.get_state(ANN)).is_known is False
        assert await store.read_log(ANN) == []
        for gone in (store.find_event("acme", "ae1"), store.get_completion("acme", "ac1", now=NOW)):
            with pytest.raises(NotFound):
                await gone
        assert await store.list_completions(ANN, now=NOW) == []
        assert [key async for key in store.iter_users("acme")] == [BOB]
        for key, prefix in ((BOB, "b"), (EVE, "v")):
            assert len(await store.read_log(key)) == 2
            assert (await store.get_state(key)).posterior is not None
            await store.get_completion(key.tenant, f"{prefix}c1", now=NOW)

    async def test_later_feedback_starts_anew(self, store: UserStore) -> None:
        old = await self.fill(store, ANN, "a")
        await store.delete_user(ANN)
        receipt = await store.append_event(event("ae1", idempotency_key="k"))
        assert (receipt.is_duplicate, receipt.position.seq) == (False, 1)
        assert receipt.position.epoch != old.epoch
        state = await store.get_state(ANN)
        assert (state.posterior, state.profile.version) == (None, 0)

    async def test_nothing_computed_before_a_deletion_can_return(self, store: UserStore) -> None:
        old = await self.fill(store, ANN, "a")
        await store.delete_user(ANN)
        with pytest.raises(Conflict):
            await store.put_posterior(ANN, posterior(1, old), expected_version=0)
        assert not (await store.get_state(ANN)).is_known
        await store.append_event(event("e1"))
        with pytest.raises(Conflict):
            await store.put_posterior(ANN, posterior(1, old), expected_version=0)

    async def test_the_unknown_can_be_deleted(self, store: UserStore) -> None:
        await store.put_completion(completion("c1"))
        receipt = await store.delete_user(ANN)
        assert (receipt.events, receipt.completions, receipt.posteriors, receipt.profiles) == (0, 1, 0, 0)
        assert (await store.delete_user(ANN)).completions == 0


class TestScans:
    async def test_people_and_posteriors_are_listed_by_tenant(self, store: UserStore) -> None:
        for number in range(3):
            key = UserKey("acme", f"u{number}")
            await store.put_posterior(key, posterior(number), expected_version=0)
        await store.append_event(event("e1", EVE))
        assert [tenant async for tenant in store.list_tenants()] == ["acme", "evil"]
        assert [key.user async for key in store.iter_users("acme")] == ["u0", "u1", "u2"]
        found = [(key.user, int(stored.arrays["count"])) async for key, stored in store.iter_posteriors("acme")]
        assert found == [("u0", 0), ("u1", 1), ("u2", 2)]
        assert [key async for key, _ in store.iter_posteriors("evil")] == []

    async def test_scans_go_past_one_page(self, store: UserStore) -> None:
        keys = [UserKey("acme", f"u{number:04}") for number in range(1100)]
        await asyncio.gather(*(store.put_posterior(key, posterior(), expected_version=0) for key in keys))
        assert [key async for key in store.iter_users("acme")] == keys
        assert [key async for key, _ in store.iter_posteriors("acme")] == keys

    async def test_health_names_the_schema(self, store: UserStore) -> None:
        health = await store.health()
        assert (health.is_available, health.schema_version) == (True, 1)
        assert health.durability == ("always" if health.backend == "sqlite" else "none")


async def test_bad_tenants_are_refused(store: UserStore) -> None:
    for call in (
        store.find_event("a:b", "e1"),
        store.get_completion("", "c1", now=NOW),
        store.list_events("a b", EventFilter()),
    ):
        with pytest.raises(ValueError, match="tenant"):
            await call


async def test_a_cancelled_caller_does_not_harm_the_others(store: UserStore) -> None:
    tasks = [asyncio.create_task(store.append_event(event(f"e{number}"))) for number in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    acknowledged = {outcome.event_id for outcome in outcomes if not isinstance(outcome, BaseException)}
    assert len(acknowledged) >= 25
    assert acknowledged <= {one.id for one in await store.read_log(ANN)}


async def test_states_compare_by_what_they_hold() -> None:
    state = UserState(ANN, position=LogPosition("x", 1, 0))
    assert not state.is_current
    assert StoreUnavailable("gone", retry_after_s=3).retry_after_s == 3
