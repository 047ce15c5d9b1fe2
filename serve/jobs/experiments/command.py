"""`palate experiments start | show | stop`. A running server takes part within a second."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from serve.artifacts.experiments import Experiment
from serve.artifacts.registry import Registry
from serve.errors import ConfigurationError
from serve.home import Home
from serve.jobs.experiments.results import Measured, Rate, Results, collect
from serve.jobs.store import run as run_job
from serve.jobs.store import url_option
from serve.models import DEFAULT_MODEL
from user_store.open import open_store
from user_store.redis_client import RedisOptions

FOLDER = "experiments"  # of what has ended
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
USERNAME = click.option("--username", envvar="PALATE_STORE_USERNAME", help="Redis ACL user, if the URL has none.")
PASSWORD = click.option("--password", envvar="PALATE_STORE_PASSWORD", help="Its password; better by the environment.")
MODEL = click.option("--model", default=DEFAULT_MODEL.name, show_default=True, help="Whose experiment.")


class Name(click.ParamType[str]):
    """A name that can be a file's."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        if NAME.fullmatch(value) is None:
            self.fail("a name has letters, digits, '.', '_' and '-', 64 at most", param, ctx)
        return value


@click.command("start")
@click.argument("name", type=Name())
@click.argument("candidate")
@click.option(
    "--share",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    help="Of people, on the candidate.",
)
def start_command(name: str, candidate: str, *, share: float) -> None:
    """Try CANDIDATE on a share of people; the others stay with the version in service."""
    found = Registry(Home.from_env().create()).start_experiment(name, candidate, share, time.time())
    click.echo(f"'{name}': {found.candidate} for {share:.0%} of people, {found.against} for the others.")


@click.command("show")
@click.argument("name", type=Name(), required=False)
@url_option
@USERNAME
@PASSWORD
@MODEL
@JSON_OPTION
def show_command(
    name: str | None, *, url: str, username: str | None, password: str | None, model: str, as_json: bool
) -> None:
    """Show what people think so far; with NAME, of an experiment that has ended."""
    registry = Registry(Home.from_env())
    running = registry.experiment(model)
    if name is not None and (running is None or running.name != name):
        path = registry.home.artifacts / FOLDER / f"{name}.json"
        if not path.exists():
            raise ConfigurationError(f"There is no experiment '{name}' for {model}, running or ended.")
        told = json.loads(path.read_text())
        click.echo(json.dumps(told, indent=1) if as_json else told["text"])
        return
    if running is None:
        raise ConfigurationError(f"No experiment is running for {model}.")
    results = _results(running, url, RedisOptions(username=username, password=password))
    click.echo(json.dumps(_described(running, results), indent=1) if as_json else render(running, results))


@click.command("stop")
@url_option
@USERNAME
@PASSWORD
@MODEL
@JSON_OPTION
def stop_command(*, url: str, username: str | None, password: str | None, model: str, as_json: bool) -> None:
    """Let the version in service serve everybody again, and keep what was found."""
    registry = Registry(Home.from_env())
    ended = registry.stop_experiment(model)
    click.echo(f"'{ended.name}' has ended; {ended.against} serves everybody.", err=True)
    results = _results(ended, url, RedisOptions(username=username, password=password))
    told = _described(ended, results)
    _keep(registry.home.artifacts / FOLDER / f"{ended.name}.json", told)
    click.echo(json.dumps(told, indent=1) if as_json else told["text"])


def render(experiment: Experiment, results: Results) -> str:
    """Lay the results out for people."""
    since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(experiment.started_at))
    lines = [
        f"'{experiment.name}' since {since}: {experiment.candidate} for {experiment.share:.0%} of people, "
        f"{experiment.against} for the others",
        f"{'':28}{'candidate':>30}{'control':>30}   difference, valid at every look (95 %)",
    ]
    measures = {"thumbs up": results.thumbs_up, "personalized over base": results.wins}
    lines += [
        f"{name:28}{_rate(one.candidate):>30}{_rate(one.control):>30}   {_gap(one)}" for name, one in measures.items()
    ]
    return "\n".join([*lines, results.conclusion()])


def _rate(rate: Rate) -> str:
    if rate.mean is None:
        return "nothing said"
    return f"{rate.mean:.1%} ({rate.num_people} people, {rate.num_judgements})"


def _gap(one: Measured) -> str:
    found = one.difference
    if not math.isfinite(found.low):
        return "too few people"
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}] points"


def _results(experiment: Experiment, url: str, options: RedisOptions) -> Results:
    async def read() -> Results:
        store = await open_store(url, options)
        try:
            with tqdm(unit=" people", desc="read", file=sys.stderr) as bar:
                return await collect(store, experiment, bar.update)
        finally:
            await store.close()

    return run_job(read())


def _described(experiment: Experiment, results: Results) -> dict[str, Any]:
    plain = asdict(results)
    for measured in plain.values():
        gap = measured["difference"]
        measured["difference"] = {name: value if math.isfinite(value) else None for name, value in gap.items()}
    text = render(experiment, results)
    return {"experiment": asdict(experiment), **plain, "conclusion": results.conclusion(), "text": text}


def _keep(path: Path, told: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(f".{path.name}")
    aside.write_text(json.dumps(told, indent=1) + "\n")
    aside.rename(path)
