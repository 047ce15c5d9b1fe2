"""The commands `palate steer discover` and `palate steer name`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from router.types import Array
from serve.artifacts.artifact import Artifact
from serve.artifacts.making import HELD_OUT, Origin, save_new
from serve.artifacts.registry import Registry
from serve.artifacts.storage import load
from serve.errors import ConfigurationError
from serve.home import Home
from serve.jobs.fit.gathering import read_everybody
from serve.jobs.learning.corpus import load_corpus
from serve.jobs.steering.discovery import Direction, Discovery, DiscoveryConfig, discover
from serve.jobs.steering.examples import Texts, correlates, examples_of, scores_of, texts_of
from serve.jobs.steering.naming import Found, with_name
from serve.jobs.store import url_option
from user_store.redis_client import RedisOptions

SHOWN = 160  # characters of a text in the table


@click.command("discover")
@url_option
@click.option("--username", envvar="PALATE_STORE_USERNAME", help="Redis ACL user, if the URL has none.")
@click.option("--password", envvar="PALATE_STORE_PASSWORD", help="Its password; better given by the environment.")
@click.option("--version", default="in-service", show_default=True, help="The version whose names are known.")
@click.option(
    "--corpus",
    "corpora",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Texts to show, made by `palate features generate`; by default the version's questions.",
)
@click.option("--directions", default=4, show_default=True, type=click.IntRange(1, 32), help="To look for.")
@click.option("--examples", default=3, show_default=True, type=click.IntRange(1, 100), help="Pairs of texts for each.")
@click.option("--max-people", default=2000, show_default=True, type=click.IntRange(20), help="To learn from.")
@click.option("--max-events", default=200, show_default=True, type=click.IntRange(4), help="Newest events a person.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write what `palate steer name` reads."
)
def discover_command(
    *,
    url: str,
    username: str | None,
    password: str | None,
    version: str,
    corpora: tuple[Path, ...],
    directions: int,
    examples: int,
    max_people: int,
    max_events: int,
    seed: int,
    json_path: Path | None,
) -> None:
    """Find directions of taste beyond the named ones, and show texts at both ends of each."""
    artifact = load(Registry(Home.from_env().create()).entry(version).folder)
    options = RedisOptions(username=username, password=password)
    gathered = read_everybody(url, options, artifact.feature_space, max_events)
    config = DiscoveryConfig(num_directions=directions, max_people=max_people, seed=seed)
    found = discover(artifact.population, gathered.table, gathered.places, config)
    texts = texts_of(artifact, [load_corpus(folder) for folder in corpora])
    report = report_of(artifact, found, texts, examples)
    click.echo(render(report))
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


@click.command("name")
@click.argument("discovered", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("number", type=click.IntRange(1))
@click.argument("name")
@click.option("--flip", is_flag=True, help="The name is of the lower end.")
@click.option("--artifact-name", default="named", show_default=True, help="First part of the new version.")
def name_command(discovered: Path, number: int, name: str, flip: bool, artifact_name: str) -> None:
    """Give direction NUMBER of a discovery a NAME: a new version, with it as a named attribute."""
    home = Home.from_env().create()
    report = read_report(discovered)
    if number > len(report["directions"]):
        raise ConfigurationError(f"{discovered} holds {len(report['directions'])} directions.")
    parent = Registry(home).entry(report["artifact"])
    one = report["directions"][number - 1]
    found = Found.of(report, number - 1, -1.0 if flip else 1.0)
    origin = Origin(
        parents=(parent.manifest,),
        data={
            "named": name,
            "people": report["people"],
            "held_out": report["held_out"],
            HELD_OUT: DiscoveryConfig().held_out_share,
        },
        metrics={key: one[key] for key in ("gain", "error", "share")},
    )
    click.echo(save_new(with_name(load(parent.folder), found, name), artifact_name, origin, home.artifacts))


def report_of(artifact: Artifact, found: Discovery, texts: Texts, num_examples: int) -> dict[str, Any]:
    """Say all that was found, as JSON."""
    return {
        "artifact": artifact.version,
        "feature_space": artifact.feature_space.id,
        "people": found.num_people,
        "held_out": found.num_held_out,
        "named": {"attributes": list(found.named), "share": found.named_share, "log_loss": found.log_loss},
        "log_loss_with_all": found.log_loss_with_all,
        "directions": [_described(artifact, one, texts, num_examples) for one in found.directions],
        "response": found.response.tolist(),
    }


def read_report(path: Path) -> dict[str, Any]:
    """Read what `report_of` said. Raises ConfigurationError if that cannot be done."""
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        _ = [(report[key]) for key in ("artifact", "feature_space", "people", "held_out", "directions", "response")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is not what `palate steer discover --json` writes: {error}") from error
    return report


def render(report: dict[str, Any]) -> str:
    """Lay it out for people."""
    named = report["named"]
    lines = [
        f"{report['people']} people to learn from, {report['held_out']} held out, whose log-loss is "
        f"{named['log_loss']:.4f} with the {len(named['attributes'])} named attributes, and "
        f"{report['log_loss_with_all']:.4f} with all directions.",
        f"Of how people's rewards differ, named attributes make {named['share']:.0%}.",
        f"{'':>3}{'share':>8}{'gain':>9}{'±':>8}  {'':<10}goes with",
    ]
    for number, one in enumerate(report["directions"], 1):
        verdict = "sure" if one["is_sure"] else "not sure"
        known = ", ".join(f"{name} {value:+.2f}" for name, value in one["goes_with"]) or "nothing that is measured"
        lines.append(f"{number:>3}{one['share']:>8.1%}{one['gain']:>9.4f}{one['error']:>8.4f}  {verdict:<10}{known}")
    for number, one in enumerate(report["directions"], 1):
        lines.append(f"\n{number}:")
        for example in one["examples"]:
            lines.append(f"  {_short(example['prompt'])}  ({example['gap']:.1f} deviations apart)")
            lines += [f"    {sign} {_short(example[end])}" for sign, end in (("+", "high"), ("-", "low"))]
    if not report["directions"]:
        lines.append("There are too few people to learn a direction from.")
    return "\n".join(lines)


def _described(artifact: Artifact, one: Direction, texts: Texts, num_examples: int) -> dict[str, Any]:
    scores = scores_of(texts, artifact.population, one.row)
    return {
        "gain": one.gain,
        "error": one.error,
        "is_sure": one.is_sure,
        "share": one.share,
        "variance": one.variance,
        "goes_with": correlates(texts, scores) if len(scores) else [],
        "examples": [
            {"prompt": each.prompt, "high": each.high, "low": each.low, "gap": each.gap}
            for each in examples_of(texts, scores, num_examples)
        ],
        "row": _numbers(one.row),
    }


def _numbers(row: Array) -> Sequence[float]:
    numbers: list[float] = row.tolist()
    return numbers


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
