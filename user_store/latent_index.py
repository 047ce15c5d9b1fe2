"""Who is near whom: everyone's posterior mean by tenant, searched with FAISS, never on the event loop.

A view of the store that can be lost: without it, or with a wrong one, a search finds nobody and the caller falls back
to the exact prior. One thread does all work on shards; long work (training lists) runs in a second thread on a copy. A
search looks into its own tenant's shard alone, so it cannot return anybody else's people.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import faiss
import numpy as np

from user_store.errors import StoreError
from user_store.latent_shard import IndexOptions, Shard, Vectors, train_lists
from user_store.latent_snapshot import load_snapshot, save_snapshot
from user_store.types import StoredPosterior, UserKey

T = TypeVar("T")
LatentOf = Callable[[StoredPosterior], Vectors | None]
_BATCH = 2000


class PosteriorSource(Protocol):
    """What an index is built from; every `UserStore` is one."""

    def list_tenants(self) -> AsyncIterator[str]:
        """Yield tenants."""
        ...

    def iter_posteriors(self, tenant: str) -> AsyncIterator[tuple[UserKey, StoredPosterior]]:
        """Yield a tenant's posteriors."""
        ...


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Somebody near: a user id of the same tenant and the Euclidean distance of the means."""

    user: str
    distance: float


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """A cluster of people: its centre (D,), its members, and their root mean square distance from the centre."""

    centre: Vectors
    users: tuple[str, ...]
    spread: float


class LatentIndex:
    """Posterior means of everyone, by tenant. `population` names the space they live in, `dim` its size."""

    def __init__(self, dim: int, population: str, options: IndexOptions | None = None) -> None:
        if dim < 1:
            raise ValueError(f"dim must be at least 1, not {dim}")
        self.dim = dim
        self.population = population
        self.options = options or IndexOptions()
        self._shards: dict[str, Shard] = {}
        self._changes: list[tuple[UserKey, Vectors | None]] | None = None  # while a build runs
        # FAISS would start a team of threads per search; for one query they cost more than they bring.
        self._thread = ThreadPoolExecutor(1, "palate-latents", faiss.omp_set_num_threads, (1,))
        self._background = ThreadPoolExecutor(1, "palate-latents-training", faiss.omp_set_num_threads, (1,))
        self._trainings: set[asyncio.Task[None]] = set()
        self._building = asyncio.Lock()
        self.num_failed_trainings = 0

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _usable(self, vector: Vectors) -> bool:
        return vector.shape == (self.dim,) and bool(np.isfinite(vector).all())

    async def upsert(self, key: UserKey, vector: Vectors) -> None:
        """Add or move a person; a vector of another size (another population's) takes them out instead."""
        if not self._usable(vector):
            await self.remove(key)
            return
        copy = vector.astype(np.float32)
        await self._run(lambda: self._set(key, copy))
        self._train_where_needed()

    async def remove(self, key: UserKey) -> None:
        """Forget a person; unknown ones are no error."""
        await self._run(lambda: self._set(key, None))

    def _set(self, key: UserKey, vector: Vectors | None) -> None:
        if self._changes is not None:
            self._changes.append((key, vector))
        _apply(self._shards, self.dim, key, vector)

    async def search(self, tenant: str, vector: Vectors, k: int) -> list[Neighbour]:
        """Find the k nearest people of a tenant, nearest first; nobody if there is nothing to search."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        if not self._usable(vector):
            return []
        query = vector.astype(np.float32)

        def work() -> list[Neighbour]:
            shard = self._shards.get(tenant)
            return [Neighbour(user, distance) for user, distance in shard.search(query, k)] if shard else []

        return await self._run(work)

    async def neighbours(self, key: UserKey, k: int) -> list[Neighbour]:
        """Find the k nearest others of a person; nobody if the person is not in the index."""

        def work() -> list[Neighbour]:
            shard = self._shards.get(key.tenant)
            row = shard.rows.get(key.user) if shard else None
            if shard is None or row is None:
                return []
            found = shard.search(shard.matrix[row].copy(), k + 1)
            return [Neighbour(user, distance) for user, distance in found if user != key.user][:k]

        return await self._run(work)

    async def cohorts(self, tenant: str, num_cohorts: int, *, seed: int = 0) -> list[Cohort]:
        """Cluster a tenant's people by k-means, largest cohort first; fewer cohorts if there are fewer people."""
        if num_cohorts < 1:
            raise ValueError(f"num_cohorts must be at least 1, not {num_cohorts}")

        def copy() -> tuple[list[str], Vectors]:
            shard = self._shards.get(tenant)
            return (list(shard.users), shard.vectors.copy()) if shard else ([], np.zeros((0, self.dim), np.float32))

        users, vectors = await self._run(copy)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._background, lambda: _cluster(users, vectors, num_cohorts, seed))

    async def sample(self, tenant: str, size: int, *, without: str = "") -> Vectors:
        """Return up to `size` people's vectors, (n, D), without saying whose; the same ones until people change."""

        def work() -> Vectors:
            shard = self._shards.get(tenant)
            if shard is None:
                return np.zeros((0, self.dim), np.float32)
            rows = np.arange(len(shard.users))
            if without in shard.rows:
                rows = np.delete(rows, shard.rows[without])
            if len(rows) > size:
                rows = np.random.default_rng(len(rows)).choice(rows, size, replace=False)
            return np.asarray(shard.matrix[rows], np.float32)

        return await self._run(work)

    async def size(self, tenant: str) -> int:
        """Count a tenant's people in the index."""
        return await self._run(lambda: len(self._shards[tenant].users) if tenant in self._shards else 0)

    async def build(self, store: PosteriorSource, latent_of: LatentOf) -> int:
        """Read everyone anew from the store, then swap; return how many. On StoreError the old index stays.

        Runs beside searches and updates; updates during the build are applied to the new index too.
        """
        async with self._building:
            await self._run(lambda: self._note_changes([]))
            try:
                fresh = await self._read(store, latent_of)
                return await self._run(lambda: self._swap(fresh))
            finally:
                await self._run(lambda: self._note_changes(None))
                self._train_where_needed()

    async def _read(self, store: PosteriorSource, latent_of: LatentOf) -> dict[str, Shard]:
        fresh: dict[str, Shard] = {}
        async for tenant in store.list_tenants():
            batch: list[tuple[UserKey, Vectors]] = []
            async for key, posterior in store.iter_posteriors(tenant):
                vector = latent_of(posterior)
                if vector is not None and self._usable(vector):
                    batch.append((key, vector.astype(np.float32)))
                if len(batch) == _BATCH:
                    await self._fill(fresh, batch)
                    batch = []
            await self._fill(fresh, batch)
        return fresh

    def _note_changes(self, changes: list[tuple[UserKey, Vectors | None]] | None) -> None:
        self._changes = changes

    async def rebuild(self, store: PosteriorSource, latent_of: LatentOf) -> bool:
        """Build as a background task may: False instead of an error when the store cannot be read."""
        try:
            await self.build(store, latent_of)
        except StoreError:
            return False
        return True

    async def _fill(self, shards: dict[str, Shard], batch: list[tuple[UserKey, Vectors]]) -> None:
        def work() -> None:
            for key, vector in batch:
                _apply(shards, self.dim, key, vector)

        # In the background thread, so that searches need not wait for it.
        await asyncio.get_running_loop().run_in_executor(self._background, work)

    def _swap(self, fresh: dict[str, Shard]) -> int:
        for key, vector in self._changes or ():
            _apply(fresh, self.dim, key, vector)
        self._shards = fresh
        return sum(len(shard.users) for shard in fresh.values())

    def _train_where_needed(self) -> None:
        for shard in list(self._shards.values()):
            if not self._trainings and shard.needs_training(self.options):
                task = asyncio.get_running_loop().create_task(self._train(shard))
                self._trainings.add(task)
                task.add_done_callback(self._trainings.discard)

    async def _train(self, shard: Shard) -> None:
        vectors = await self._run(shard.begin_training)
        loop = asyncio.get_running_loop()
        try:
            lists = await loop.run_in_executor(self._background, lambda: train_lists(vectors, self.options))
        except (RuntimeError, MemoryError):  # FAISS raises the first; searches stay exact, or use the older lists
            self.num_failed_trainings += 1
            await self._run(lambda: shard.abandon_training(len(vectors)))
        else:
            await self._run(lambda: shard.finish_training(lists, len(vectors)))

    async def settled(self) -> None:
        """Wait until no training is under way."""
        while self._trainings:
            await asyncio.gather(*self._trainings)
            self._train_where_needed()

    async def save(self, path: Path) -> None:
        """Write a snapshot. Searches wait meanwhile, about a second for a million people."""
        await self._run(lambda: save_snapshot(path, self._shards, self.population))

    async def load(self, path: Path) -> bool:
        """Take over a snapshot of this population; False, and nothing changes, if there is no sound one.

        A snapshot is as old as it is: rebuild in the background afterwards.
        """

        def work() -> bool:
            shards = load_snapshot(path, self.population)
            if shards is None or any(shard.dim != self.dim for shard in shards.values()):
                return False
            self._shards = shards
            return True

        is_loaded = await self._run(work)
        self._train_where_needed()
        return is_loaded

    async def close(self) -> None:
        """Finish running work and end the threads."""
        await self.settled()
        self._thread.shutdown()
        self._background.shutdown()


def _apply(shards: dict[str, Shard], dim: int, key: UserKey, vector: Vectors | None) -> None:
    shard = shards.get(key.tenant)
    if vector is not None:
        shard = shard or shards.setdefault(key.tenant, Shard(dim))
        shard.upsert(key.user, vector)
    elif shard is not None:
        shard.remove(key.user)
        if not shard.users:
            del shards[key.tenant]


def _cluster(users: list[str], vectors: Vectors, num_cohorts: int, seed: int) -> list[Cohort]:
    num_cohorts = min(num_cohorts, len(users))
    if num_cohorts == 0:
        return []
    # FAISS warns on standard output below 39 points per centroid; few people are no reason to.
    kmeans = faiss.Kmeans(vectors.shape[1], num_cohorts, niter=25, seed=seed, min_points_per_centroid=1)
    kmeans.train(vectors)
    squared, nearest = kmeans.index.search(vectors, 1)
    centroids = np.asarray(kmeans.centroids)  # (K, D)
    cohorts = []
    for number in range(num_cohorts):
        members = np.flatnonzero(nearest[:, 0] == number)
        if len(members):
            spread = float(np.sqrt(np.maximum(squared[members, 0], 0).mean()))
            centre = np.asarray(centroids[number], np.float32)
            cohorts.append(Cohort(centre, tuple(users[row] for row in members), spread))
    return sorted(cohorts, key=lambda cohort: -len(cohort.users))
