"""What people in an experiment said, from a store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from router.sequential import Difference
from serve.artifacts.experiments import Experiment
from serve.jobs.experiments.results import Measured, Rate, Results, collect
from tests.user_store.samples import NOW, completion, event
from user_store.sqlite_store import SqliteStore, open_sqlite
from user_store.types import FeedbackKind, UserKey

EXPERIMENT = Experiment("try", "m", "two", "one", 0.5, NOW)
PEOPLE = [UserKey("acme", f"u{number}") for number in range(80)]
CANDIDATE = [key for key in PEOPLE if EXPERIMENT.arm_of(key) == "candidate"]
CONTROL = [key for key in PEOPLE if EXPERIMENT.arm_of(key) == "control"]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = open_sqlite(tmp_path / "palate.db")
    yield store
    await store.close()


async def thumb(store: SqliteStore, key: UserKey, number: int, value: int, at: float = NOW + 1) -> None:
    name = f"c-{key.user}-{number}"
    await store.put_completion(completion(name, key, created_at=at))
    await store.append_event(event(f"e-{name}", key, value=value, completion_ids=(name,), created_at=at, subject=name))


async def results(store: SqliteStore) -> Results:
    return await collect(store, EXPERIMENT, lambda _: None)


async def test_a_difference_between_arms_is_found_by_people(store: SqliteStore) -> None:
    for number, key in enumerate(CANDIDATE):
        await thumb(store, key, 0, 1)
        await thumb(store, key, 1, 1 if number % 4 else -1)
    for number, key in enumerate(CONTROL):
        await thumb(store, key, 0, 1 if number % 4 == 0 else -1)
    found = (await results(store)).thumbs_up
    assert found.candidate.mean == pytest.approx(1 - 0.5 * np.mean(np.arange(len(CANDIDATE)) % 4 == 0))
    assert (found.candidate.num_people, found.candidate.num_judgements) == (len(CANDIDATE), 2 * len(CANDIDATE))
    assert found.control.num_people == len(CONTROL)
    assert found.difference.low > 0.0


async def test_what_does_not_count(store: SqliteStore) -> None:
    key = CANDIDATE[0]
    await thumb(store, key, 0, 1, at=NOW - 10)  # before the start
    await thumb(store, key, 1, 1)
    await store.withdraw_event(key, f"e-c-{key.user}-1")
    await thumb(store, key, 2, -1)
    name = f"c-{key.user}-2"
    await store.append_event(event("again", key, value=1, completion_ids=(name,), created_at=NOW + 2, subject=name))
    await store.append_event(
        event("inline", key, value=1, created_at=NOW + 2, evidence={"judged": np.ones(3, np.float32)})
    )
    late = event("late", key, value=1, completion_ids=(f"c-{key.user}-0",), created_at=NOW + 3)
    await store.append_event(late)  # now, but about an answer from before
    found = (await results(store)).thumbs_up
    assert found.candidate == Rate(1.0, 1, 1)  # the thumb that replaced the other
    assert found.control == Rate(None, 0, 0)
    assert not found.difference.is_decided


async def test_wins_are_choices_between_personal_and_base_answers(store: SqliteStore) -> None:
    key = CONTROL[0]
    pair = {"arms": ("base", "steered"), "chosen": 1, "payload": {"order": [1, 0]}}
    await store.put_completion(completion("both", key, created_at=NOW + 1, **pair))
    for number, value in enumerate([0, 1]):
        compare = event(
            f"e{number}", key, kind=FeedbackKind.COMPARISON, value=value, completion_ids=("both",), created_at=NOW + 2
        )
        await store.append_event(compare)
    await store.put_completion(completion("plain", key, created_at=NOW + 1, chosen=0))
    await store.put_completion(completion("personal", key, created_at=NOW + 1, chosen=1))
    for number, (value, names) in enumerate([(1, ("plain", "personal")), (0, ("plain", "plain2"))]):
        if "plain2" in names:
            await store.put_completion(completion("plain2", key, created_at=NOW + 1, chosen=0))
        compare = event(
            f"f{number}", key, kind=FeedbackKind.COMPARISON, value=value, completion_ids=names, created_at=NOW + 2
        )
        await store.append_event(compare)
    found = (await results(store)).wins
    assert found.control.mean == pytest.approx(2 / 3)
    assert (found.control.num_people, found.control.num_judgements) == (1, 3)  # two plain answers tell nothing


def test_the_conclusion_says_which_way() -> None:
    nothing = Rate(None, 0, 0)

    def measured(low: float, high: float) -> Measured:
        return Measured(nothing, nothing, Difference((low + high) / 2, low, high))

    assert "Nothing is decided" in Results(measured(-1, 1), measured(-np.inf, np.inf)).conclusion()
    assert "better, by thumbs" in Results(measured(0.1, 1), measured(-1, 1)).conclusion()
    assert "worse, by thumbs and choices" in Results(measured(-1, -0.1), measured(-1, -0.1)).conclusion()
    assert "better by choices and worse by thumbs" in Results(measured(-1, -0.1), measured(0.1, 1)).conclusion()
