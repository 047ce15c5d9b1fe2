"""The command `palate fit`: options, the stages and what is kept of them, progress, the artifact written.

A killed run goes on with what its last stage left in `--work`. Knows nothing of the mathematics.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
from tqdm import tqdm

from router.population import MapPeople
from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import Registry
from serve.artifacts.storage import Manifest, load, save, version_of
from serve.home import Home
from serve.jobs.fit.fitting import RefitConfig, Verdict, influence, refit
from serve.jobs.fit.gathering import Gathered, gather
from serve.jobs.fit.workers import counted, ray_workers
from serve.jobs.learning.make import command_line
from serve.jobs.store import run as run_job
from serve.jobs.store import url_option
from user_store.open import open_store
from user_store.redis_client import RedisOptions


@click.command("fit")
@url_option
@click.option("--username", envvar="PALATE_STORE_USERNAME", help="Redis ACL user, if the URL has none.")
@click.option("--password", envvar="PALATE_STORE_PASSWORD", help="Its password; better given by the environment.")
@click.option("--from", "parent_version", default="in-service", show_default=True, help="The version to start from.")
@click.option("--name", default="fit", show_default=True, help="First part of the new version.")
@click.option("--rank", default=4, show_default=True, type=click.IntRange(0, 64), help="Directions to learn.")
@click.option("--max-events", default=200, show_default=True, type=click.IntRange(4), help="Newest events a person.")
@click.option("--min-people", default=20, show_default=True, type=click.IntRange(2), help="A prototype stands for.")
@click.option("--workers", type=click.IntRange(1, 1_024), help="Ray workers on this machine; by default none.")
@click.option("--ray-address", help="A Ray cluster for the E-steps, such as ray://host:10001 or auto.")
@click.option("--work", "work_folder", type=click.Path(path_type=Path, file_okay=False), help="Keeps finished stages.")
@click.option("--seed", default=0, show_default=True)
def fit(
    *,
    url: str,
    username: str | None,
    password: str | None,
    parent_version: str,
    name: str,
    rank: int,
    max_events: int,
    min_people: int,
    workers: int | None,
    ray_address: str | None,
    work_folder: Path | None,
    seed: int,
) -> None:
    """Fit a new artifact from the feedback collected so far; `palate artifacts publish` puts it into service."""
    home = Home.from_env().create()
    parent = load(Registry(home).entry(parent_version).folder)
    gathered = _gathered(url, RedisOptions(username=username, password=password), parent, max_events, work_folder)
    table = gathered.table
    click.echo(f"{table.num_people} people, {gathered.num_events} judgements", err=True)
    config = RefitConfig(rank=rank, min_people=min_people, seed=seed)
    with (
        ray_workers(ray_address, workers) if ray_address or workers else nullcontext(map) as map_people,
        tqdm(unit=" people", desc="E-steps", file=sys.stderr) as bar,
    ):
        artifact, candidate, before = refit(parent, table, config, counted(_as_map(map_people), bar.update))
    version = version_of(artifact.population, name)
    artifact = replace(artifact, population=replace(artifact.population, version=version))
    manifest = Manifest(
        version=version,
        model=artifact.feature_space.model,
        feature_space=artifact.feature_space.id,
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        command=command_line(),
        parents=(parent.version,),
        data={
            "people": table.num_people,
            "events": gathered.num_events,
            "first_at": gathered.first_at,
            "last_at": gathered.last_at,
            "max_events_a_person": max_events,
            "largest_share_of_a_person": influence(table),
        },
        metrics={"held_out": candidate.to_json(), "parent_held_out": before.to_json()},
    )
    folder = save(artifact, manifest, home.artifacts)
    click.echo(render(version, candidate, before))
    click.echo(folder)


def render(version: str, candidate: Verdict, before: Verdict) -> str:
    """Say how the candidate does beside its parent, on the same held-out people."""
    better = candidate.log_loss < before.log_loss
    return (
        f"{version}: on {candidate.num_people} held-out people, accuracy {candidate.accuracy:.1%} (before "
        f"{before.accuracy:.1%}), log-loss {candidate.log_loss:.3f} (before {before.log_loss:.3f}): "
        + ("better than its parent." if better else "not better than its parent; think before publishing it.")
    )


def _gathered(url: str, options: RedisOptions, parent: Artifact, max_events: int, work: Path | None) -> Gathered:
    kept = work / f"gathered-{parent.feature_space.id}-{max_events}.npz" if work is not None else None
    if kept is not None and kept.exists():
        return Gathered.load(kept)

    async def read() -> Gathered:
        store = await open_store(url, options)
        try:
            with tqdm(unit=" people", desc="gather", file=sys.stderr) as bar:
                return await gather(store, parent.feature_space, max_events, bar.update)
        finally:
            await store.close()

    gathered = run_job(read())
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        gathered.save(kept)
    return gathered


def _as_map(map_people: MapPeople | type[map]) -> MapPeople:  # type: ignore[type-arg]
    return map_people
