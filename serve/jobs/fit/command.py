"""The command `palate fit`: options, what is kept of a killed run, progress, the artifact written.

A run keeps the feedback it gathered and what each of its steps found in a folder of its own, named after its options
and readable by the owner alone. The same command goes on from there after a kill. A run that finishes or is refused
removes it, and the next run what is older than a day, since people may have taken back what they said. Knows nothing of
the mathematics.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import click
from tqdm import tqdm

from router.em import MapPeople, Run
from serve.artifacts.artifact import Artifact
from serve.artifacts.making import HELD_OUT, Origin, save_new
from serve.artifacts.registry import Registry
from serve.artifacts.storage import load
from serve.errors import PalateError
from serve.home import Home
from serve.jobs.fit.fitting import Refit, RefitConfig, refit
from serve.jobs.fit.gathering import Gathered, read_everybody
from serve.jobs.fit.resuming import Steps
from serve.jobs.fit.workers import counted, ray_workers
from serve.jobs.store import url_option
from user_store.redis_client import RedisOptions

MAX_AGE_S = 86_400.0
GATHERED = "gathered.npz"


@click.command("fit")
@url_option
@click.option("--username", envvar="PALATE_STORE_USERNAME", help="Redis ACL user, if the URL has none.")
@click.option("--password", envvar="PALATE_STORE_PASSWORD", help="Its password; better given by the environment.")
@click.option("--from", "parent_version", default="in-service", show_default=True, help="The version to start from.")
@click.option("--name", default="fit", show_default=True, help="First part of the new version.")
@click.option("--rank", default=4, show_default=True, type=click.IntRange(0, 64), help="Directions to learn.")
@click.option("--max-events", default=200, show_default=True, type=click.IntRange(4), help="Newest events a person.")
@click.option(
    "--max-share", default=0.05, show_default=True, type=click.FloatRange(0.0, 1.0, min_open=True), help="Of evidence."
)
@click.option(
    "--max-move",
    default=0.25,
    show_default=True,
    type=click.FloatRange(0.0, min_open=True),
    help="Logits by which one person's removal may change a prototype's reward of answers.",
)
@click.option("--min-people", default=20, show_default=True, type=click.IntRange(2), help="A prototype stands for.")
@click.option("--workers", type=click.IntRange(1, 1_024), help="Ray workers on this machine; by default none.")
@click.option("--ray-address", help="A Ray cluster for the E-steps, such as ray://host:10001 or auto.")
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
    max_share: float,
    max_move: float,
    min_people: int,
    workers: int | None,
    ray_address: str | None,
    seed: int,
) -> None:
    """Fit a new artifact from the feedback collected so far; `palate artifacts publish` puts it into service."""
    home = Home.from_env().create()
    entry = Registry(home).entry(parent_version)
    parent = load(entry.folder)
    config = RefitConfig(rank=rank, min_people=min_people, max_share=max_share, max_move=max_move, seed=seed)
    work = _work_folder(home, parent.version, url, max_events, config)
    with _removed(work):
        gathered = _gathered(url, RedisOptions(username=username, password=password), parent, max_events, work)
        table = gathered.table
        click.echo(f"{table.num_people} people, {gathered.num_events} judgements", err=True)
        steps = Steps(work)
        with (
            ray_workers(ray_address, workers) if ray_address or workers else nullcontext(map) as map_people,
            tqdm(unit=" people", desc="E-steps", file=sys.stderr) as bar,
        ):
            found = refit(parent, table, gathered.places, config, Run(counted(_as_map(map_people), bar.update), steps))
        if steps.num_recalled:
            click.echo(f"{steps.num_recalled} steps were taken over from a run that was broken off", err=True)
        origin = Origin(
            parents=(entry.manifest,),
            data={
                "people": found.num_people,
                "people_left_out": found.num_left_out,
                HELD_OUT: config.held_out_share,
                "events": gathered.num_events,
                "first_at": gathered.first_at,
                "last_at": gathered.last_at,
                "max_events_a_person": max_events,
                "largest_share_of_a_person": found.largest_share,
                "largest_move_by_a_person": found.move,
                "parent_share_of_prior": found.parent_share,
            },
            metrics={"held_out": found.candidate.to_json(), "parent_held_out": found.parent.to_json()},
        )
        folder = save_new(found.artifact, name, origin, home.artifacts)
        click.echo(render(folder.name, found))
        click.echo(folder)


def render(version: str, found: Refit) -> str:
    """Say how the candidate does beside its parent, on the same held-out people."""
    candidate, before = found.candidate, found.parent
    better = candidate.log_loss < before.log_loss
    return (
        f"{version}: on {candidate.num_people} held-out people, accuracy {candidate.accuracy:.1%} (before "
        f"{before.accuracy:.1%}), log-loss {candidate.log_loss:.3f} (before {before.log_loss:.3f}): "
        + ("better than its parent." if better else "not better than its parent; think before publishing it.")
        + f" One person moves it by at most {found.move:.3f}."
    )


def _work_folder(home: Home, parent: str, url: str, max_events: int, config: RefitConfig) -> Path:
    """Give this fit's folder, after removing what is too old, whichever fit's."""
    for gathered in (home.path / "fit").glob(f"*/{GATHERED}"):
        if time.time() - gathered.stat().st_mtime > MAX_AGE_S:
            shutil.rmtree(gathered.parent)
    said = json.dumps([parent, url, max_events, asdict(config)])
    folder = home.path / "fit" / hashlib.sha256(said.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@contextmanager
def _removed(work: Path) -> Iterator[None]:
    """Remove the folder of a run that finishes or is refused; a killed one can go on from it."""
    try:
        yield
    except PalateError:  # the next run is another one, and reads what people say by then
        shutil.rmtree(work)
        raise
    shutil.rmtree(work)


def _gathered(url: str, options: RedisOptions, parent: Artifact, max_events: int, work: Path) -> Gathered:
    kept = work / GATHERED
    if kept.exists():
        return Gathered.load(kept)
    gathered = read_everybody(url, options, parent.feature_space, max_events)
    gathered.save(kept)
    return gathered


def _as_map(map_people: MapPeople | type[map]) -> MapPeople:  # type: ignore[type-arg]
    return map_people
