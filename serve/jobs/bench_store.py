"""`palate bench store`: what a person costs in bytes, and how fast they are read, taught and found, as people grow.

Synthetic people with posteriors of the shapes the preference model stores. SQLite in a temporary folder; Redis at a
given URL, or a temporary server with `appendfsync always`. Prints a table and JSON. Numbers are sequential calls of
one client unless a name says otherwise.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import faiss
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from user_store.latent_index import LatentIndex, PosteriorSource
from user_store.open import open_store
from user_store.redis_store import RedisStore
from user_store.store import UserStore
from user_store.types import FeedbackEvent, FeedbackKind, LogPosition, StoredPosterior, UserKey

T = TypeVar("T")
NOW = 1_700_000_000.0
CONCURRENCY = 64
FILL_CONCURRENCY = 256
NEIGHBOURS = 10


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes: prototypes K, dimension D of the posterior, events a person, features in an event's evidence."""

    prototypes: int = 4
    dim: int = 8
    events: int = 3
    evidence_dim: int = 32


@dataclass(slots=True)
class Row:
    """One line of the result; times in milliseconds unless the name says seconds."""

    backend: str
    people: int
    fill_s: float = 0.0
    bytes_per_person: float = 0.0
    read_p50_ms: float = 0.0
    read_p99_ms: float = 0.0
    update_p50_ms: float = 0.0
    update_p99_ms: float = 0.0
    updates_per_s_at_64: float = 0.0
    index_build_s: float = 0.0
    search_p50_ms: float = 0.0
    search_p99_ms: float = 0.0
    recall_at_10: float = 0.0
    snapshot_bytes_per_person: float = 0.0
    snapshot_load_s: float = 0.0


class People:
    """Deterministic synthetic people: tastes around eight centres, as a fitted population has them."""

    def __init__(self, shapes: Shapes, tenant: str) -> None:
        self.shapes = shapes
        self.tenant = tenant
        self._centres = np.random.default_rng(1).normal(size=(8, shapes.dim)) * 1.5

    def key(self, number: int) -> UserKey:
        """Name a person; ids are spread like hashes, not sorted by age."""
        return UserKey(self.tenant, f"user-{(number * 2_654_435_761) % 2**32:08x}")

    def posterior(self, number: int, position: LogPosition) -> StoredPosterior:
        """Make K Gaussians and their evidence."""
        rng, shapes = np.random.default_rng([2, number]), self.shapes
        taste = self._centres[number % 8] + rng.normal(size=shapes.dim)
        means = taste + 0.3 * rng.normal(size=(shapes.prototypes, shapes.dim))  # (K, D)
        precisions = np.broadcast_to(np.eye(shapes.dim), (shapes.prototypes, shapes.dim, shapes.dim))
        arrays = {"shift": means, "precision": precisions, "log_evidence": rng.normal(size=shapes.prototypes)}
        small = {name: array.astype(np.float32) for name, array in arrays.items()}
        return StoredPosterior(small, "bench-1", position, NOW)

    def event(self, number: int, index: int) -> FeedbackEvent:
        """Make a comparison with evidence for both sides."""
        features = np.random.default_rng([3, number, index]).normal(size=(2, self.shapes.evidence_dim))
        evidence = {"chosen": features[0].astype(np.float32), "rejected": features[1:].astype(np.float32)}
        name = f"fb_{number:08x}{index:08x}"
        kind = FeedbackKind.COMPARISON
        subject = f"cmpl-{number:08x}{index:08x}"
        return FeedbackEvent(
            name, self.key(number), kind, NOW, completion_ids=(subject,), value=0, evidence=evidence, subject=subject
        )


def latent_of(posterior: StoredPosterior) -> NDArray[np.float32]:
    """Average the prototypes' means, (D,)."""
    means = np.asarray(posterior.arrays["shift"], np.float32)  # (K, D)
    return np.asarray(means.mean(axis=0), np.float32)


async def fill(store: UserStore, people: People, count: int) -> None:
    """Write everyone's events and posterior, FILL_CONCURRENCY at a time."""

    async def one(number: int) -> None:
        events = [people.event(number, index) for index in range(people.shapes.events)]
        receipts = await store.append_events(events)
        position = receipts[-1].position if receipts else LogPosition()
        await store.put_posterior(people.key(number), people.posterior(number, position), expected_version=0)

    with tqdm(total=count, unit=" people", desc="fill", disable=None) as bar:
        for start in range(0, count, FILL_CONCURRENCY):
            numbers = range(start, min(start + FILL_CONCURRENCY, count))
            await asyncio.gather(*map(one, numbers))
            bar.update(len(numbers))


async def update(store: UserStore, people: People, number: int, index: int) -> None:
    """Do what one thumb does: append, read, write the posterior."""
    await store.append_event(people.event(number, index))
    state = await store.get_state(people.key(number))
    version = state.posterior.version if state.posterior else 0
    await store.put_posterior(state.key, people.posterior(number, state.position), expected_version=version)


async def timed(call: Callable[[T], Awaitable[Any]], arguments: Iterable[T]) -> tuple[float, float]:
    """Await calls one after another; return the median and 99th percentile in milliseconds."""
    times = []
    for argument in arguments:
        started = time.perf_counter()
        await call(argument)
        times.append(1000 * (time.perf_counter() - started))
    p50, p99 = np.percentile(times, [50, 99])
    return float(p50), float(p99)


async def measure_store(store: UserStore, people: People, row: Row) -> None:
    """Time reads and updates of random people."""
    num_updates = min(1000, 5 * row.people)
    chosen = np.random.default_rng(4).integers(0, row.people, size=3 * num_updates).tolist()
    reads, updates = chosen[num_updates:], chosen[:num_updates]
    row.read_p50_ms, row.read_p99_ms = await timed(lambda n: store.get_state(people.key(n)), reads)
    numbered = list(enumerate(updates, start=1000))
    row.update_p50_ms, row.update_p99_ms = await timed(lambda one: update(store, people, one[1], one[0]), numbered)
    others = np.random.default_rng(5).permutation(row.people)[:3200].tolist()
    started = time.perf_counter()
    for start in range(0, len(others), CONCURRENCY):
        await asyncio.gather(*(update(store, people, n, 5000) for n in others[start : start + CONCURRENCY]))
    row.updates_per_s_at_64 = len(others) / (time.perf_counter() - started)


class Unstored:
    """Posteriors made on the fly, to measure the index without a store."""

    def __init__(self, people: People, count: int) -> None:
        self._people = people
        self._count = count

    async def list_tenants(self) -> AsyncIterator[str]:
        """Yield the only tenant."""
        yield self._people.tenant

    async def iter_posteriors(self, tenant: str) -> AsyncIterator[tuple[UserKey, StoredPosterior]]:
        """Yield everyone; there is one tenant."""
        for number in range(self._count):
            yield self._people.key(number), self._people.posterior(number, LogPosition())


async def measure_index(store: PosteriorSource, people: People, row: Row, folder: Path) -> None:
    """Time the latent index: build with training, search, snapshot; compare with exact search."""
    index = LatentIndex(people.shapes.dim, "bench-1")
    started = time.perf_counter()
    await index.build(store, latent_of)
    await index.settled()
    row.index_build_s = time.perf_counter() - started
    stored = [(key.user, latent_of(posterior)) async for key, posterior in store.iter_posteriors(people.tenant)]
    users = [user for user, _ in stored]
    everyone = np.stack([vector for _, vector in stored])  # (U, D)
    queries = everyone[np.random.default_rng(6).integers(0, len(everyone), size=1000)] + np.float32(0.05)
    found: list[set[str]] = []

    async def search(query: NDArray[np.float32]) -> None:
        found.append({one.user for one in await index.search(people.tenant, query, NEIGHBOURS)})

    row.search_p50_ms, row.search_p99_ms = await timed(search, queries)
    _, rows = faiss.knn(queries[:200], everyone, NEIGHBOURS)
    hits = [len(one & {users[i] for i in exact}) for one, exact in zip(found[:200], rows, strict=True)]
    row.recall_at_10 = float(np.mean(hits)) / NEIGHBOURS
    snapshot = folder / "latents"
    await index.save(snapshot)
    row.snapshot_bytes_per_person = snapshot.stat().st_size / row.people
    other = LatentIndex(people.shapes.dim, "bench-1")
    started = time.perf_counter()
    await other.load(snapshot)
    row.snapshot_load_s = time.perf_counter() - started
    await index.close()
    await other.close()


async def stored_bytes(store: UserStore, folder: Path) -> int:
    """Measure the file, or what Redis says its data takes in memory."""
    if isinstance(store, RedisStore):
        info = await store.backend.call("INFO", "memory")
        return int(info["used_memory"] if isinstance(info, dict) else 0)
    return await asyncio.to_thread(lambda: sum(file.stat().st_size for file in folder.glob("palate.db*")))


async def measure(url: str, people: People, row: Row, folder: Path) -> None:
    """Fill a store and measure everything on it."""
    store = await open_store(url)
    try:
        empty = await stored_bytes(store, folder)
        started = time.perf_counter()
        await fill(store, people, row.people)
        row.fill_s = time.perf_counter() - started
        row.bytes_per_person = (await stored_bytes(store, folder) - empty) / row.people
        await measure_store(store, people, row)
        await measure_index(store, people, row, folder)
    finally:
        await store.close()


@contextmanager
def temporary_redis(folder: Path) -> Iterator[str]:
    """Run a Redis of our own on a socket, synced on every write; ClickException without the binary."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise click.ClickException("no redis-server here; install it, give --redis-url, or choose --backend sqlite")
    socket = folder / "redis.sock"
    settings = {"port": "0", "unixsocket": str(socket), "dir": str(folder), "save": "", "appendonly": "yes"}
    settings |= {"appendfsync": "always", "logfile": str(folder / "redis.log")}
    arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
    process = subprocess.Popen([binary, *arguments])  # noqa: S603
    try:
        while not socket.exists():
            if process.poll() is not None:
                raise click.ClickException(f"redis-server ended: {(folder / 'redis.log').read_text()[-500:]}")
            time.sleep(0.02)
        yield f"unix://{socket}"
    finally:
        process.kill()
        process.wait()


def measure_backend(backend: str, redis_url: str | None, count: int, shapes: Shapes) -> Row:
    """Measure one line in a fresh place."""
    row = Row(backend, count)
    people = People(shapes, f"bench-{count}")  # a tenant each, since a given Redis keeps them
    with tempfile.TemporaryDirectory(prefix="palate-bench-") as name:
        folder = Path(name)
        if backend == "none":
            asyncio.run(measure_index(Unstored(people, count), people, row, folder))
        elif backend == "sqlite":
            asyncio.run(measure(f"sqlite://{folder}/palate.db", people, row, folder))
        elif redis_url is not None:
            asyncio.run(measure(redis_url, people, row, folder))
        else:
            with temporary_redis(folder) as url:
                asyncio.run(measure(url, people, row, folder))
    return row


def table(rows: list[Row]) -> str:
    """Lay rows out as columns, one measure a line."""
    fields = [name for name in Row.__dataclass_fields__ if name not in {"backend", "people"}]
    lines = [f"{'':26}" + "".join(f"{row.backend + ' ' + format(row.people, ','):>20}" for row in rows)]
    lines += [f"{name:26}" + "".join(f"{getattr(row, name):>20,.3f}" for row in rows) for name in fields]
    return "\n".join(lines)


@click.command("store", help="Measure store and latent index with synthetic people.")
@click.option("--people", default="10000,100000", show_default=True, help="Numbers of people, with commas.")
@click.option(
    "--backend",
    type=click.Choice(["sqlite", "redis", "none"]),
    multiple=True,
    default=("sqlite", "redis"),
    help="May be repeated; none measures the index alone.",
)
@click.option(
    "--redis-url", help="An empty Redis to use instead of a temporary one; it will hold the people afterwards."
)
@click.option("--events", default=3, show_default=True, type=click.IntRange(0, 1000), help="Events a person.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here too."
)
def store(people: str, backend: tuple[str, ...], redis_url: str | None, events: int, json_path: Path | None) -> None:
    """Measure and print."""
    try:
        counts = [int(part.replace("_", "")) for part in people.split(",")]
    except ValueError:
        raise click.BadParameter("use whole numbers such as 10000,100000", param_hint="--people") from None
    if min(counts) < NEIGHBOURS:
        raise click.BadParameter(f"at least {NEIGHBOURS} people are needed", param_hint="--people")
    shapes = Shapes(events=events)
    rows: list[Row] = []
    for name in backend:
        for count in counts:
            rows.append(measure_backend(name, redis_url, count, shapes))
            click.echo(table(rows[-1:]), file=sys.stderr)
    click.echo(table(rows))
    report = {"shapes": asdict(shapes), "rows": [asdict(row) for row in rows]}
    click.echo(json.dumps(report))
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    store()
