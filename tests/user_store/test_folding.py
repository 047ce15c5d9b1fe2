"""Posteriors follow their log: every event once, in any interleaving of writers, after any change to the past."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.user_store.models import ADDING, D, fold, from_first, start
from tests.user_store.samples import ANN, NOW, announced, completion, event, features
from user_store.errors import Conflict
from user_store.folding import MAX_ATTEMPTS, MAX_WAIT_S, catch_up, effective, settle_pending
from user_store.store import UserStore
from user_store.types import FeedbackEvent, StoredPosterior, UserKey, UserState


def taught(event_id: str, seed: int, **changes: Any) -> FeedbackEvent:
    return event(event_id, evidence={"x": features(seed, D)}, **changes)


def shift(state: UserState) -> NDArray[np.float64]:
    assert state.posterior is not None
    return np.asarray(state.posterior.arrays["shift"], np.float64)


def expected(*seeds: int) -> NDArray[np.float64]:
    return np.asarray(np.sum([features(seed, D) for seed in seeds], axis=0, dtype=np.float64))


def test_only_standing_evidence_counts() -> None:
    log = [
        taught("e1", 1, seq=1, subject="c1"),
        taught("e2", 2, seq=2),
        taught("e3", 3, seq=3, is_withdrawn=True),
        event("e4", seq=4, completion_ids=("c2",), is_pending=True),
        taught("e5", 5, seq=5, subject="c1"),
        taught("e6", 6, seq=6, subject="c1", is_withdrawn=True),
        taught("e7", 7, seq=7, subject="c2"),
    ]
    assert [one.id for one in effective(log)] == ["e2", "e5", "e7"]


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ([(2.0, False), (1.0, True)], "e0"),  # it waited in a spool while something newer came
        ([(1.0, False), (2.0, True)], "e1"),
        ([(1.0, False), (1.0, True)], "e1"),
        ([(2.0, True), (1.0, True)], "e0"),
        ([(2.0, True), (1.0, False)], "e1"),  # a clock that jumped back
        ([(2.0, False), (1.0, False)], "e1"),
        ([(1.0, False), (3.0, False), (2.0, True)], "e1"),
    ],
)
def test_the_latest_of_a_subject_counts_and_the_late_only_for_its_time(
    said: list[tuple[float, bool]], counts: str
) -> None:
    log = [
        taught(f"e{number}", number, seq=number + 1, subject="c1", created_at=NOW + time_s, is_late=is_late)
        for number, (time_s, is_late) in enumerate(said)
    ]
    assert [one.id for one in effective(log)] == [counts]


async def test_feedback_that_arrives_late_does_not_replace_newer_one(store: UserStore) -> None:
    await store.append_event(taught("e1", 1, subject="c1", created_at=NOW + 2))
    await catch_up(store, ANN, ADDING, now=NOW)
    late = taught("e2", 2, subject="c1", created_at=NOW + 1, is_late=True)
    await store.append_event(late)
    np.testing.assert_allclose(shift(await catch_up(store, ANN, ADDING, now=NOW)), expected(1), rtol=1e-12)
    await store.withdraw_event(ANN, "e1")
    np.testing.assert_allclose(shift(await catch_up(store, ANN, ADDING, now=NOW)), expected(2), rtol=1e-12)


async def test_the_posterior_follows_appends_withdrawals_and_replacements(store: UserStore) -> None:
    await store.append_event(taught("e1", 1, subject="c1"))
    await store.append_event(taught("e2", 2))
    state = await catch_up(store, ANN, ADDING, now=NOW)
    np.testing.assert_allclose(shift(state), expected(1, 2), rtol=1e-12)
    assert state.is_current
    await store.append_event(taught("e3", 3, subject="c1"))
    np.testing.assert_allclose(shift(await catch_up(store, ANN, ADDING, now=NOW)), expected(2, 3), rtol=1e-12)
    await store.withdraw_event(ANN, "e3")
    np.testing.assert_allclose(shift(await catch_up(store, ANN, ADDING, now=NOW)), expected(1, 2), rtol=1e-12)
    stored = await store.get_state(ANN)
    assert stored.is_current
    np.testing.assert_array_equal(shift(stored), shift(await catch_up(store, ANN, ADDING, now=NOW)))


async def test_a_current_posterior_is_not_written_again(store: UserStore) -> None:
    await store.append_event(taught("e1", 1))
    first = await catch_up(store, ANN, ADDING, now=NOW)
    second = await catch_up(store, ANN, ADDING, now=NOW + 1)
    assert first.posterior is not None
    assert second.posterior is not None
    assert first.posterior.version == second.posterior.version == 1


async def test_another_population_refolds_the_log(store: UserStore) -> None:
    await store.append_event(taught("e1", 1))
    await catch_up(store, ANN, ADDING, now=NOW)
    doubled = replace(ADDING, population="adding-2", start=lambda: {**start(), "shift": np.ones(D)})
    state = await catch_up(store, ANN, doubled, now=NOW)
    np.testing.assert_allclose(shift(state), 1 + expected(1), rtol=1e-6)


async def test_the_unknown_stay_unknown(store: UserStore) -> None:
    assert (await catch_up(store, ANN, ADDING, now=NOW)).posterior is None
    assert not (await store.get_state(ANN)).is_known


async def test_concurrent_writers_lose_nothing(store: UserStore) -> None:
    async def writer(writer_id: int) -> None:
        for number in range(10):
            await store.append_event(taught(f"w{writer_id}-{number}", 100 * writer_id + number))
            await catch_up(store, ANN, ADDING, now=NOW)

    await asyncio.gather(*(writer(writer_id) for writer_id in range(6)))
    state = await store.get_state(ANN)
    assert state.is_current
    assert state.posterior is not None
    assert int(state.posterior.arrays["count"]) == 60
    seeds = [100 * writer_id + number for writer_id in range(6) for number in range(10)]
    np.testing.assert_allclose(shift(state), expected(*seeds), atol=1e-12)


class ChangingStore:
    """Passes everything on, but runs an interruption between the reading of the state and of the log."""

    def __init__(self, store: UserStore, interruption: list[object]) -> None:
        self._store = store
        self._interruption = interruption

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def read_log(self, key: UserKey, *, after_seq: int = 0) -> list[FeedbackEvent]:
        while self._interruption:
            await self._interruption.pop()  # type: ignore[misc]
        return await self._store.read_log(key, after_seq=after_seq)


@pytest.mark.parametrize("change", ["append", "replace", "withdraw", "delete", "delete and return"])
async def test_a_change_in_the_middle_is_never_lost(store: UserStore, change: str) -> None:
    await store.append_event(taught("e1", 1, subject="c1"))
    await catch_up(store, ANN, ADDING, now=NOW)
    await store.append_event(taught("e2", 2))
    interruption: dict[str, tuple[list[object], list[int]]] = {
        "append": ([store.append_event(taught("e3", 3))], [1, 2, 3]),
        "replace": ([store.append_event(taught("e3", 3, subject="c1"))], [2, 3]),
        "withdraw": ([store.withdraw_event(ANN, "e1")], [2]),
        "delete": ([store.delete_user(ANN)], []),
        "delete and return": ([store.append_event(taught("e9", 9)), store.delete_user(ANN)], [9]),
    }
    steps, seeds = interruption[change]
    for name, (others, _) in interruption.items():
        for unused in others if name != change else []:
            unused.close()  # type: ignore[attr-defined]
    await catch_up(ChangingStore(store, steps), ANN, ADDING, now=NOW)  # type: ignore[arg-type]
    state = await catch_up(store, ANN, ADDING, now=NOW)
    assert state.is_current
    if seeds:
        np.testing.assert_allclose(shift(state), expected(*seeds), rtol=1e-12)
    else:
        assert not state.is_known


async def test_endless_conflict_is_reported(store: UserStore) -> None:
    class Contended(ChangingStore):
        attempts = 0

        async def put_posterior(self, key: UserKey, posterior: StoredPosterior, *, expected_version: int) -> int:
            self.attempts += 1
            raise Conflict("always", current_version=1)

    await store.append_event(taught("e1", 1))
    contended = Contended(store, [])
    with pytest.raises(Conflict, match="try again"):
        await catch_up(contended, ANN, ADDING, now=NOW)  # type: ignore[arg-type]
    assert contended.attempts == MAX_ATTEMPTS


@pytest.mark.parametrize("is_feedback_first", [True, False])
async def test_racing_feedback_is_settled_whoever_comes_last(store: UserStore, is_feedback_first: bool) -> None:
    waiting = event("e1", completion_ids=("c1",), is_pending=True)
    if is_feedback_first:
        await store.append_event(waiting)
        assert not await settle_pending(store, waiting, from_first, now=NOW)
        for found in await store.put_completion(completion("c1")):
            assert await settle_pending(store, found, from_first, now=NOW)
    else:
        assert await store.put_completion(completion("c1")) == []
        await store.append_event(waiting)
        assert await settle_pending(store, waiting, from_first, now=NOW)
    assert not await settle_pending(store, waiting, from_first, now=NOW)
    state = await catch_up(store, ANN, ADDING, now=NOW)
    assert state.posterior is not None
    assert int(state.posterior.arrays["count"]) == 1


async def test_feedback_is_never_settled_by_anothers_completion(store: UserStore) -> None:
    await store.put_completion(completion("c1", UserKey("acme", "bob")))
    waiting = event("e1", completion_ids=("c1",), is_pending=True)
    await store.append_event(waiting)
    await settle_pending(store, waiting, from_first, now=NOW)
    (found,) = await store.read_log(ANN)
    assert (found.is_pending, effective([found])) == (False, [])


async def test_what_nobody_settled_is_settled_by_the_next_to_catch_up(store: UserStore) -> None:
    await store.append_event(event("e1", completion_ids=("c1",), is_pending=True))
    state = await catch_up(store, ANN, ADDING, now=NOW)
    assert (state.is_current, state.num_pending) == (True, 1)
    await store.put_completion(completion("c1"))  # and then the process died
    state = await catch_up(store, ANN, ADDING, now=NOW)
    assert state.posterior is not None
    assert int(state.posterior.arrays["count"]) == 1
    assert (state.is_current, state.num_pending) == (True, 0)


@pytest.mark.parametrize(
    ("answer", "waited_s", "still_waits"),
    [
        ("unknown", MAX_WAIT_S, True),
        ("unknown", MAX_WAIT_S + 1, False),
        ("announced", 3599.0, True),
        ("announced", 3600.0, False),
        ("expired", 2.0, False),
        ("without evidence", 0.0, False),
    ],
)
async def test_what_can_never_count_waits_no_longer(
    store: UserStore, answer: str, waited_s: float, still_waits: bool
) -> None:
    if answer == "announced":
        await store.announce_completion(announced("c1"))
    elif answer == "expired":
        await store.put_completion(completion("c1", expires_at=NOW + 1))
    elif answer == "without evidence":
        await store.put_completion(completion("c1", features=features(1, 1, 3), arms=("base",), chosen=0))
    await store.append_event(event("e1", completion_ids=("c1",), is_pending=True))
    state = await catch_up(store, ANN, ADDING, now=NOW + waited_s)
    assert state.num_pending == still_waits
    (found,) = await store.read_log(ANN)
    assert found.is_pending == still_waits
    assert effective([found]) == []


async def test_evidence_that_cannot_be_gathered_holds_nobody_up(store: UserStore) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("an import brought nonsense")

    await store.put_completion(completion("c1"))
    await store.append_event(event("e1", completion_ids=("c1",), is_pending=True))
    await store.append_event(taught("e2", 2))
    state = await catch_up(store, ANN, replace(ADDING, evidence=refuse), now=NOW)
    np.testing.assert_allclose(shift(state), expected(2), rtol=1e-12)
    assert state.num_pending == 0


async def test_who_is_erased_while_their_feedback_is_settled_stays_erased(store: UserStore) -> None:
    class Erasing(ChangingStore):
        async def list_pending(self, key: UserKey) -> list[FeedbackEvent]:
            waiting = await self._store.list_pending(key)
            await self._store.delete_user(key)
            await self._store.put_completion(completion("c1"))
            return waiting

    await store.append_event(event("e1", completion_ids=("c1",), is_pending=True))
    state = await catch_up(Erasing(store, []), ANN, ADDING, now=NOW)  # type: ignore[arg-type]
    assert (state.is_known, state.posterior) == (False, None)


def test_folding_in_two_steps_is_folding_in_one() -> None:
    events = [taught(f"e{number}", number) for number in range(6)]
    whole, parts = fold(start(), events), fold(fold(start(), events[3:]), events[:3])
    np.testing.assert_allclose(whole["precision"].astype(float), parts["precision"].astype(float), rtol=1e-12)
