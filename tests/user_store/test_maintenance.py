"""A store can be checked, rebuilt from its log and copied, beside everything else."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from tests.user_store.models import ADDING, D
from tests.user_store.samples import ANN, NOW, completion, event, features, posterior
from user_store.folding import catch_up
from user_store.maintenance import check, copy, rebuild
from user_store.sqlite_store import open_sqlite
from user_store.store import UserStore
from user_store.types import UserKey

PEOPLE = [UserKey(tenant, f"u{number:02}") for tenant in ("acme", "evil") for number in range(40)]


class Counter:
    def __init__(self) -> None:
        self.total = 0

    def __call__(self, amount: int) -> None:
        self.total += amount


async def fill(store: UserStore) -> None:
    for index, key in enumerate(PEOPLE):
        await store.append_event(event(f"e{index}-1", key, evidence={"x": features(index, D)}))
        await store.append_event(event(f"e{index}-2", key, evidence={"x": features(index + 500, D)}))
        await catch_up(store, key, ADDING, now=NOW)


async def test_a_sound_store_has_no_problems(store: UserStore) -> None:
    await fill(store)
    await store.withdraw_event(PEOPLE[0], "e0-1")
    await store.append_event(event("wait", PEOPLE[1], completion_ids=("c1",), is_pending=True))
    progress = Counter()
    report = await check(store, progress)
    assert (report.people, report.events, report.posteriors) == (80, 161, 80)
    assert (report.withdrawn, report.pending, report.stale, report.num_problems) == (1, 1, 2, 0)
    assert progress.total == 80


async def test_rebuilt_posteriors_equal_stored_ones(store: UserStore) -> None:
    await fill(store)
    stored = {key: one async for key, one in store.iter_posteriors("acme")}
    progress = Counter()
    assert (await rebuild(store, ADDING, progress, now=NOW)).posteriors == 80
    async for key, one in store.iter_posteriors("acme"):
        for name, array in one.arrays.items():
            np.testing.assert_allclose(array.astype(float), stored[key].arrays[name].astype(float), atol=1e-12)
        assert one.version == stored[key].version + 1
    assert progress.total == 80


async def test_a_rebuild_settles_what_still_waits(store: UserStore) -> None:
    await store.append_event(event("e1", completion_ids=("c1",), is_pending=True))
    await store.put_completion(completion("c1"))  # and then the process died
    assert (await rebuild(store, ADDING, Counter(), now=NOW)).posteriors == 1
    state = await store.get_state(ANN)
    assert state.posterior is not None
    assert (int(state.posterior.arrays["count"]), state.num_pending, state.is_current) == (1, 0, True)


async def test_a_rebuild_mends_a_wrong_posterior_and_skips_empty_people(store: UserStore) -> None:
    position = (await store.append_event(event("e1", evidence={"x": features(1, D)}))).position
    await store.put_posterior(ANN, posterior(9, position), expected_version=0)
    assert (await rebuild(store, ADDING, Counter(), now=NOW)).posteriors == 1
    state = await store.get_state(ANN)
    assert state.posterior is not None
    np.testing.assert_allclose(state.posterior.arrays["shift"].astype(float), features(1, D), rtol=1e-6)


async def test_a_copy_holds_the_same_and_may_be_repeated(store: UserStore, tmp_path: Path) -> None:
    await fill(store)
    target = open_sqlite(tmp_path / "target.db")
    report = await copy(store, target, Counter(), now=NOW)
    assert (report.people, report.events, report.duplicates, report.posteriors) == (80, 160, 0, 80)
    report = await copy(store, target, Counter(), now=NOW)
    assert (report.people, report.events, report.duplicates) == (80, 0, 160)
    for key in PEOPLE[::7]:
        assert [one.id for one in await target.read_log(key)] == [one.id for one in await store.read_log(key)]
        assert (await target.get_state(key)).is_current
    await target.close()


async def test_one_persons_damage_keeps_nobody_else_from_being_rebuilt_and_copied(tmp_path: Path) -> None:
    path = tmp_path / "palate.db"
    store, target = open_sqlite(path), open_sqlite(tmp_path / "target.db")
    await fill(store)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE events SET body = '{' WHERE id IN ('e2-1', 'e50-1')")
    progress = Counter()
    rebuilt = await rebuild(store, ADDING, progress, now=NOW)
    assert (rebuilt.people, rebuilt.posteriors, rebuilt.num_problems, progress.total) == (80, 78, 2, 80)
    copied = await copy(store, target, Counter(), now=NOW)
    assert (copied.people, copied.copied, copied.events, copied.num_problems) == (80, 78, 156, 2)
    assert rebuilt.problems == copied.problems == (await check(store, Counter())).problems
    assert rebuilt.problems[0].startswith("acme: person 2: ")
    assert "cannot be read" in rebuilt.problems[0]
    for one in (store, target):
        await one.close()


async def test_damage_is_reported_without_naming_people(tmp_path: Path) -> None:
    path = tmp_path / "palate.db"
    store = open_sqlite(path)
    await fill(store)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM events WHERE id = 'e1-1'")
        connection.execute("UPDATE events SET body = '{' WHERE id = 'e2-1'")
        connection.execute("UPDATE events SET evidence = x'00' WHERE id = 'e3-1'")
        connection.execute("UPDATE people SET posterior = x'00' WHERE user = 'u04' AND tenant = 'acme'")
    report = await check(store, Counter())
    assert report.num_problems == len(report.problems) == 4
    text = "\n".join(report.problems)
    assert "holds 1 of 2 events" in text
    assert "u0" not in text
    await store.close()
