"""`palate evaluate release CANDIDATE`: judge a candidate on people nobody was fitted to, and keep the ruling."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime

import click
import numpy as np
from tqdm import tqdm

from serve.artifacts.registry import Entry, Registry
from serve.artifacts.rulings import Ruling, fingerprint
from serve.artifacts.storage import load
from serve.errors import ConfigurationError
from serve.home import Home
from serve.jobs.fit.fitting import LONG_ENOUGH
from serve.jobs.fit.gathering import Gathered, gather
from serve.jobs.release.comparison import Compared, Comparison, compare, predict
from serve.jobs.release.deciding import Rules, decide
from serve.jobs.store import run as run_job
from serve.jobs.store import url_option
from user_store.open import open_store
from user_store.redis_client import RedisOptions

NOT_BETTER = 3  # exit status, apart from the 1 and 2 of errors


@click.command("release")
@click.argument("candidate")
@url_option
@click.option("--username", envvar="PALATE_STORE_USERNAME", help="Redis ACL user, if the URL has none.")
@click.option("--password", envvar="PALATE_STORE_PASSWORD", help="Its password; better given by the environment.")
@click.option("--max-events", default=200, show_default=True, type=click.IntRange(4), help="Newest events a person.")
@click.option("--json", "as_json", is_flag=True, help="Print the ruling as JSON.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
def release(
    candidate: str,
    *,
    url: str,
    username: str | None,
    password: str | None,
    max_events: int,
    as_json: bool,
    seed: int,
) -> None:
    """Compare CANDIDATE with the version in service on held-out people; exit with 3 if it should not replace it."""
    registry = Registry(Home.from_env().create())
    entry = registry.entry(candidate)
    serving = registry.serving(entry.manifest.model)
    if serving is None:
        raise ConfigurationError(f"Nothing serves {entry.manifest.model} yet: there is nothing to compare with.")
    if serving.manifest.version == candidate:
        raise ConfigurationError(f"{candidate} serves already.")
    if serving.manifest.feature_space != entry.manifest.feature_space:
        raise ConfigurationError(
            f"{candidate} reads feature space {entry.manifest.feature_space}, {serving.manifest.version} reads "
            f"{serving.manifest.feature_space}: no stored feedback fits both."
        )
    gathered = _gathered(url, RedisOptions(username=username, password=password), entry, max_events)
    found = judge(gathered, entry, serving, seed)
    reasons = decide(found, Rules())
    ruling = Ruling(
        candidate=candidate,
        fingerprint=fingerprint(entry.folder),
        against=serving.manifest.version,
        is_passed=not reasons,
        reasons=reasons,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics=asdict(found),
    )
    path = ruling.save(registry.home.artifacts)
    if as_json:
        click.echo(json.dumps(asdict(ruling), indent=1))
    else:
        click.echo(render(ruling, found))
        click.echo(path)
    raise SystemExit(0 if ruling.is_passed else NOT_BETTER)


def judge(gathered: Gathered, candidate: Entry, serving: Entry, seed: int) -> Comparison:
    """Compare on people whom neither was fitted to: those who are held out of every fit from the store."""
    shares = [one.manifest.data.get("held_out_share", 1.0) for one in (candidate, serving)]
    table = gathered.table
    told = np.bincount(table.people, minlength=table.num_people) >= LONG_ENOUGH
    judges = np.flatnonzero(told & (gathered.places < min(shares)))
    if not len(judges):
        raise ConfigurationError(f"No held-out person gave {LONG_ENOUGH} judgements or more.")
    questions = table.subset(judges)
    populations = [load(one.folder).population for one in (candidate, serving)]
    first, second = (predict(population, questions.evidence(population)) for population in populations)
    return compare(first, second, seed)


def render(ruling: Ruling, found: Comparison) -> str:
    """Lay the comparison out for people."""
    measures: list[tuple[str, Compared]] = [
        ("log-loss", found.log_loss),
        ("accuracy", found.accuracy),
        ("calibration error", found.calibration_error),
        ("harmed people", found.harm),
        ("worst tenth's log-loss", found.worst_tenth),
        *((f"log-loss of group {number}", one) for number, one in enumerate(found.groups)),
    ]
    lines = [
        f"{ruling.candidate} against {ruling.against}: {found.num_people} held-out people, "
        f"{found.num_judgements} judgements, 95 % intervals",
        f"{'':24}{'candidate':>28}{'in service':>28}{'difference':>28}",
    ]
    lines += [f"{name:24}{one.candidate!s:>28}{one.in_service!s:>28}{one.difference!s:>28}" for name, one in measures]
    lines.append(f"{'ms to learn':24}{found.update_ms[0]:28.2f}{found.update_ms[1]:28.2f}")
    lines.append("It may be published." if ruling.is_passed else "It should not be published:")
    return "\n".join([*lines, *(f"- {reason}" for reason in ruling.reasons)])


def _gathered(url: str, options: RedisOptions, entry: Entry, max_events: int) -> Gathered:
    space = load(entry.folder).feature_space

    async def read() -> Gathered:
        store = await open_store(url, options)
        try:
            with tqdm(unit=" people", desc="gather", file=sys.stderr) as bar:
                return await gather(store, space, max_events, bar.update)
        finally:
            await store.close()

    return run_job(read())
