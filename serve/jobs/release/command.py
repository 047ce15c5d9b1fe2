"""`palate evaluate release CANDIDATE`: judge a candidate on people nobody was fitted to, and keep the ruling."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np

from serve.artifacts.making import HELD_OUT
from serve.artifacts.registry import Entry, Registry
from serve.artifacts.rulings import Ruling, fingerprint
from serve.artifacts.storage import load, version_of
from serve.errors import ConfigurationError
from serve.home import Home
from serve.jobs.fit.fitting import LONG_ENOUGH
from serve.jobs.fit.gathering import Gathered, read_everybody
from serve.jobs.release.comparison import Compared, Comparison, compare, predict
from serve.jobs.release.deciding import Rules, decide, decide_served
from serve.jobs.release.served import ServedComparison, compare_served
from serve.jobs.store import url_option
from user_store.redis_client import RedisOptions

NOT_BETTER = 3  # exit status, apart from the 1 and 2 of errors


@click.command("release")
@click.argument("candidate")
@url_option
@click.option("--username", envvar="PALATE_STORE_USERNAME", help="Redis ACL user, if the URL has none.")
@click.option("--password", envvar="PALATE_STORE_PASSWORD", help="Its password; better given by the environment.")
@click.option("--max-events", default=200, show_default=True, type=click.IntRange(4), help="Newest events a person.")
@click.option(
    "--simulated",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What `palate evaluate simulated --artifact CANDIDATE --json` wrote.",
)
@click.option(
    "--simulated-base",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The same of the version in service.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the ruling as JSON.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
def release(
    candidate: str,
    *,
    url: str,
    username: str | None,
    password: str | None,
    max_events: int,
    simulated: Path | None,
    simulated_base: Path | None,
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
    if _differs_by_adapters(entry, serving):
        raise ConfigurationError(
            f"{candidate} predicts exactly as {serving.manifest.version} does: only its adapters differ, and "
            "`palate adapt` judged those. Publish it, or try it with `palate experiments start`."
        )
    if (simulated is None) != (simulated_base is None):
        raise click.UsageError("--simulated and --simulated-base go together.")
    served = None
    if simulated is not None and simulated_base is not None:
        served = compare_served(simulated, simulated_base, (candidate, serving.manifest.version))
    options = RedisOptions(username=username, password=password)
    gathered = read_everybody(url, options, load(entry.folder).feature_space, max_events)
    found = judge(gathered, entry, serving, seed)
    reasons = decide(found, Rules()) + (() if served is None else decide_served(served, Rules()))
    ruling = Ruling(
        candidate=candidate,
        fingerprint=fingerprint(entry.folder),
        against=serving.manifest.version,
        is_passed=not reasons,
        reasons=reasons,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics=asdict(found) | ({} if served is None else {"simulated": asdict(served)}),
    )
    path = ruling.save(registry.home.artifacts)
    if as_json:
        click.echo(json.dumps(asdict(ruling), indent=1))
    else:
        click.echo(render(ruling, found, served))
        click.echo(path)
    raise SystemExit(0 if ruling.is_passed else NOT_BETTER)


def judge(gathered: Gathered, candidate: Entry, serving: Entry, seed: int) -> Comparison:
    """Compare on people whom neither was fitted to: those who are held out of every fit from the store."""
    shares = [one.manifest.data.get(HELD_OUT, 1.0) for one in (candidate, serving)]
    table = gathered.table
    told = np.bincount(table.people, minlength=table.num_people) >= LONG_ENOUGH
    judges = np.flatnonzero(told & (gathered.places < min(shares)))
    if not len(judges):
        raise ConfigurationError(f"No held-out person gave {LONG_ENOUGH} judgements or more.")
    questions = table.subset(judges)
    populations = [load(one.folder).population for one in (candidate, serving)]
    first, second = (predict(population, questions.evidence(population)) for population in populations)
    return compare(first, second, seed)


def render(ruling: Ruling, found: Comparison, served: ServedComparison | None = None) -> str:
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
    if served is None:
        lines.append("What simulated people are served was not compared (--simulated, --simulated-base).")
    else:
        gain = served.gain
        lines.append(
            f"{served.num_people} simulated people after {served.k} pieces of feedback, best of {served.best_of}"
        )
        lines.append(f"{'served gain':24}{gain.candidate!s:>28}{gain.in_service!s:>28}{gain.difference!s:>28}")
        lines.append(f"{'served below the base':24}{served.harmed[0]:>28.0%}{served.harmed[1]:>28.0%}")
        lines.append(f"{'s an answer':24}{served.latency_s[0]:28.2f}{served.latency_s[1]:28.2f}")
    lines.append("It may be published." if ruling.is_passed else "It should not be published:")
    return "\n".join([*lines, *(f"- {reason}" for reason in ruling.reasons)])


def _differs_by_adapters(one: Entry, other: Entry) -> bool:
    """Whether two versions have one population and at least one of them adapters."""
    both = [load(entry.folder) for entry in (one, other)]
    has_adapters = any(adapter for artifact in both for adapter in artifact.adapters)
    return has_adapters and len({version_of(artifact.population, "") for artifact in both}) == 1
