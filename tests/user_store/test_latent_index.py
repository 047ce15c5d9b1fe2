"""The index finds the true neighbours of the right tenant, and a lost or damaged one is no error."""

import asyncio
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patience import PATIENCE_S
from tests.user_store.samples import NOW, event, features
from user_store import latent_index
from user_store.errors import StoreUnavailable
from user_store.latent_index import LatentIndex, Neighbour
from user_store.latent_shard import IndexOptions, Shard, Vectors, train_lists
from user_store.sqlite_store import open_sqlite
from user_store.store import UserStore
from user_store.types import LogPosition, StoredPosterior, UserKey

D = 8
SMALL = IndexOptions(exact_limit=256, num_probes=16)


def mean_of(posterior: StoredPosterior) -> Vectors | None:
    mean = posterior.arrays.get("mean")
    return None if mean is None else mean.astype(np.float32)


async def fill(index: LatentIndex, tenant: str, vectors: Vectors) -> None:
    for number, vector in enumerate(vectors):
        await index.upsert(UserKey(tenant, f"u{number}"), vector)


def has_lists(index: LatentIndex) -> bool:
    return index._shards["acme"].ivf is not None


def nearest(vectors: Vectors, query: Vectors, k: int) -> list[str]:
    return [f"u{row}" for row in np.argsort(np.linalg.norm(vectors - query, axis=1), kind="stable")[:k]]


async def test_few_are_searched_exactly() -> None:
    index, vectors = LatentIndex(D, "p"), features(0, 200, D)
    await fill(index, "acme", vectors)
    found = await index.search("acme", vectors[3], 10)
    assert [one.user for one in found] == nearest(vectors, vectors[3], 10)
    distances = [float(np.linalg.norm(vectors[int(one.user[1:])] - vectors[3])) for one in found]
    np.testing.assert_allclose([one.distance for one in found], distances, atol=1e-3)
    assert await index.neighbours(UserKey("acme", "u3"), 9) == found[1:]
    await index.close()


async def test_many_are_searched_in_lists_with_high_recall() -> None:
    index, vectors = LatentIndex(D, "p", SMALL), features(1, 3000, D)
    await fill(index, "acme", vectors)
    await index.settled()
    assert has_lists(index)
    hits = 0
    for query in features(2, 100, D):
        found = {one.user for one in await index.search("acme", query, 10)}
        hits += len(found & set(nearest(vectors, query, 10)))
    assert hits >= 950  # recall@10 of at least 0.95
    await index.close()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from("aurt"), st.integers(0, 40), st.integers(0, 10_000)), max_size=80), st.booleans()
)
def test_a_shard_always_equals_the_last_word_on_everyone(steps: list[tuple[str, int, int]], has_lists: bool) -> None:
    vectors = features(3, 300, 4)
    shard = Shard(4)
    truth = {f"base{number}": vectors[number] for number in range(300)}
    for user, vector in truth.items():
        shard.upsert(user, vector)
    if has_lists:
        shard.finish_training(train_lists(shard.begin_training(), IndexOptions(256, 1000)), 300)
    for action, number, seed in steps:
        user = f"base{number}"
        if action == "r":
            assert shard.remove(user) == (truth.pop(user, None) is not None)
        elif action == "t" and shard.dirty is None:
            copy = shard.begin_training()
        elif action == "t":
            shard.finish_training(train_lists(copy, IndexOptions(256, 1000)), len(copy))
        else:
            truth[user] = features(seed, 4)
            shard.upsert(user, truth[user])
    assert dict(zip(shard.users, map(tuple, shard.vectors.tolist()), strict=True)) == {
        user: tuple(vector.tolist()) for user, vector in truth.items()
    }
    query = np.zeros(4, np.float32)
    expected = sorted(float(np.linalg.norm(vector)) for vector in truth.values())[:20]
    np.testing.assert_allclose([distance for _, distance in shard.search(query, 20)], expected, atol=1e-4)


async def test_a_search_stays_in_its_tenant() -> None:
    index, vectors = LatentIndex(D, "p"), features(4, 50, D)
    await fill(index, "acme", vectors)
    await index.upsert(UserKey("evil", "mallory"), vectors[0])
    assert {one.user for one in await index.search("evil", vectors[0], 50)} == {"mallory"}
    assert "mallory" not in {one.user for one in await index.search("acme", vectors[0], 100)}
    assert await index.neighbours(UserKey("evil", "u0"), 5) == []
    assert await index.neighbours(UserKey("evil", "mallory"), 5) == []
    await index.close()


async def test_nobody_is_found_where_nothing_can_be() -> None:
    index = LatentIndex(D, "p")
    assert await index.search("acme", np.zeros(D, np.float32), 5) == []
    await index.upsert(UserKey("acme", "ann"), np.ones(D, np.float32))
    assert await index.search("acme", np.zeros(D + 1, np.float32), 5) == []
    assert await index.search("acme", np.full(D, np.nan, np.float32), 5) == []
    await index.upsert(UserKey("acme", "ann"), np.ones(D + 1, np.float32))
    assert await index.size("acme") == 0
    await index.remove(UserKey("acme", "ann"))
    for call in (index.search("acme", np.zeros(D, np.float32), 0), index.cohorts("acme", 0)):
        with pytest.raises(ValueError, match="at least 1"):
            await call
    with pytest.raises(ValueError, match="dim"):
        LatentIndex(0, "p")
    with pytest.raises(ValueError, match="exact_limit"):
        IndexOptions(exact_limit=1)
    await index.close()


async def put_mean(store: UserStore, key: UserKey, mean: Vectors) -> None:
    stored = StoredPosterior({"mean": mean}, "p", LogPosition(), NOW)
    await store.put_posterior(key, stored, expected_version=0)


async def test_it_is_built_from_the_store_and_changes_meanwhile_count(store: UserStore) -> None:
    vectors = features(5, 30, D)
    for number, vector in enumerate(vectors):
        await put_mean(store, UserKey("acme", f"u{number}"), vector)
    await put_mean(store, UserKey("evil", "other"), features(6, D + 1))
    await store.append_event(event("e1", UserKey("acme", "no posterior yet")))
    index = LatentIndex(D, "p")
    await index.upsert(UserKey("acme", "gone"), vectors[0])
    moved = np.full(D, 9, np.float32)

    def latent_of(posterior: StoredPosterior) -> Vectors | None:
        if not tasks:
            tasks.append(asyncio.ensure_future(index.upsert(UserKey("acme", "u1"), moved)))
            tasks.append(asyncio.ensure_future(index.remove(UserKey("acme", "u2"))))
        return mean_of(posterior)

    tasks: list[asyncio.Future[None]] = []
    assert await index.build(store, latent_of) == 29
    await asyncio.gather(*tasks)
    assert await index.size("evil") == 0
    assert (await index.search("acme", moved, 1))[0] == Neighbour("u1", 0.0)
    users = {one.user for one in await index.search("acme", moved, 100)}
    assert users == {f"u{number}" for number in range(30)} - {"u2"}
    await index.close()


async def test_a_store_that_fails_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "palate.db")
    await store.close()
    index = LatentIndex(D, "p")
    await index.upsert(UserKey("acme", "ann"), np.ones(D, np.float32))
    assert not await index.rebuild(store, mean_of)
    with pytest.raises(StoreUnavailable):
        await index.build(store, mean_of)
    assert await index.size("acme") == 1
    await index.close()


async def test_a_snapshot_brings_everything_back(tmp_path: Path) -> None:
    path, vectors = tmp_path / "deep" / "latents", features(7, 600, D)
    index = LatentIndex(D, "p", SMALL)
    await fill(index, "acme", vectors)
    await index.upsert(UserKey("evil", "mallory"), vectors[0])
    await index.settled()
    before = await index.search("acme", vectors[0], 20)
    await index.save(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    other = LatentIndex(D, "p", SMALL)
    assert await other.load(path)
    assert has_lists(other)
    assert await other.search("acme", vectors[0], 20) == before
    await other.upsert(UserKey("acme", "u0"), vectors[1])
    await other.remove(UserKey("acme", "u1"))
    assert "u1" not in {one.user for one in await other.search("acme", vectors[1], 20)}
    assert await other.size("evil") == 1
    await index.close()
    await other.close()


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "flipped", "folder", "text"])
async def test_a_wrong_snapshot_is_no_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "latents"
    index = LatentIndex(D, "p")
    await fill(index, "acme", features(8, 20, D))
    await index.save(path)
    await index.close()
    content = bytearray(await asyncio.to_thread(path.read_bytes))
    content[len(content) // 2] ^= 1
    changes = {"empty": b"", "short": bytes(content[:-9]), "flipped": bytes(content), "text": b"hello" * 100}
    await asyncio.to_thread(os.unlink, path)
    if damage == "folder":
        await asyncio.to_thread(path.mkdir)
    elif damage in changes:
        await asyncio.to_thread(path.write_bytes, changes[damage])
    other = LatentIndex(D, "p")
    await other.upsert(UserKey("acme", "kept"), np.ones(other.dim, np.float32))
    assert not await other.load(path)
    assert await other.size("acme") == 1
    await other.close()


async def test_another_population_or_size_does_not_load(tmp_path: Path) -> None:
    path = tmp_path / "latents"
    index = LatentIndex(D, "p")
    await fill(index, "acme", features(8, 20, D))
    await index.save(path)
    for other, is_loaded in (
        (LatentIndex(D, "q"), False),
        (LatentIndex(D + 1, "p"), False),
        (LatentIndex(D, "p"), True),
    ):
        assert await other.load(path) == is_loaded
        await other.close()
    await index.close()
    assert os.listdir(tmp_path) == ["latents"]


async def test_cohorts_are_the_clusters() -> None:
    centres = np.eye(3, D, dtype=np.float32) * 20
    vectors = np.concatenate(
        [centre + features(n, size, D) for n, (centre, size) in enumerate(zip(centres, (60, 40, 20), strict=True))]
    )
    index = LatentIndex(D, "p")
    await fill(index, "acme", vectors)
    cohorts = await index.cohorts("acme", 3)
    assert [len(cohort.users) for cohort in cohorts] == [60, 40, 20]
    assert set(cohorts[0].users) == {f"u{number}" for number in range(60)}
    np.testing.assert_allclose(cohorts[0].centre, vectors[:60].mean(axis=0), atol=1e-3)
    assert 0.5 * D**0.5 < cohorts[0].spread < 1.5 * D**0.5
    assert await index.cohorts("evil", 3) == []
    assert sum(len(cohort.users) for cohort in await index.cohorts("acme", 500)) == 120
    await index.close()


async def test_training_blocks_neither_loop_nor_search(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def slow(vectors: Vectors, options: IndexOptions) -> object:
        gate.wait(PATIENCE_S)
        return train_lists(vectors, options)

    monkeypatch.setattr(latent_index, "train_lists", slow)
    index, vectors = LatentIndex(D, "p", SMALL), features(9, 400, D)
    await fill(index, "acme", vectors)
    assert not has_lists(index)
    assert (await index.search("acme", vectors[5], 1))[0].user == "u5"
    await index.upsert(UserKey("acme", "u5"), vectors[6] + 100)
    await index.remove(UserKey("acme", "u7"))
    gate.set()
    await index.settled()
    assert has_lists(index)
    assert (await index.search("acme", vectors[6] + 100, 1))[0].user == "u5"
    assert await index.size("acme") == 399
    await index.close()


async def test_a_failed_training_keeps_the_search_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Vectors, __: IndexOptions) -> object:
        raise RuntimeError("no memory for lists")

    monkeypatch.setattr(latent_index, "train_lists", broken)
    index, vectors = LatentIndex(D, "p", SMALL), features(9, 400, D)
    await fill(index, "acme", vectors)
    await index.settled()
    assert index.num_failed_trainings == 1
    assert (await index.search("acme", vectors[5], 1))[0].user == "u5"
    await index.close()


async def test_a_sample_is_of_the_tenant_and_leaves_one_out() -> None:
    index = LatentIndex(2, "p")
    for number in range(5):
        await index.upsert(UserKey("t", f"u{number}"), np.array([number, 0], np.float32))
    await index.upsert(UserKey("other", "x"), np.array([99, 0], np.float32))
    everyone = await index.sample("t", 10)
    assert sorted(everyone[:, 0]) == [0, 1, 2, 3, 4]
    without = await index.sample("t", 10, without="u3")
    assert sorted(without[:, 0]) == [0, 1, 2, 4]
    few = await index.sample("t", 2)
    assert len(few) == 2
    assert np.array_equal(few, await index.sample("t", 2))
    assert len(await index.sample("nobody", 2)) == 0
    await index.close()
