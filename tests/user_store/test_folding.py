"""Posteriors follow their log: every event once, in any interleaving of writers, after any change to the past."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.user_store.models import ADDING, D, fold, start
from tests.user_store.samples import ANN, NOW, completion, event, features
from user_store.errors import Conflict
from user_store.folding import MAX_ATTEMPTS, catch_up, effective, settle_pending
from user_store.store import UserStore
from user_store.types import CompletionRecord, FeedbackEvent, StoredPosterior, UserKey, UserState
from user_store.validation import Arrays


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


def from_first(_: FeedbackEvent, records: Sequence[CompletionRecord]) -> Arrays:
    assert records[0].features is not None
    return {"x": np.resize(records[0].features[0], D)}


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
    assert not await settle_pending(store, waiting, from_first, now=NOW)


def test_folding_in_two_steps_is_folding_in_one() -> None:
    events = [taught(f"e{number}", number) for number in range(6)]
    whole, parts = fold(start(), events), fold(fold(start(), events[3:]), events[:3])
    np.testing.assert_allclose(whole["precision"].astype(float), parts["precision"].astype(float), rtol=1e-12)
