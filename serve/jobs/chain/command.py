"""`palate evaluate chain`: traffic, fit, steer, adapt, release and publish on a fresh install, and what people gain.

One server runs all the time. Simulated people compare answers through its HTTP API; the product's own commands learn
from them, judge what was learned, and publish it under the running server. Before and after, other simulated people who
have as much in common with the first ones as these have with each other are served after three pieces of feedback, and
compared in pairs. Knows no mathematics.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import httpx
import numpy as np
from tqdm import tqdm

from serve import config as configuration
from serve.errors import EngineUnavailable
from serve.home import Home
from serve.jobs.chain.learning import Learned, adapt, learn
from serve.jobs.chain.stages import Stages, command, fresh_home
from serve.jobs.learning.prompts import DEFAULT_PROMPTS, Role, load_prompts, of_role
from serve.jobs.release.comparison import Compared
from serve.jobs.release.served import paired
from serve.jobs.simulated.client import TIMEOUT_S, Client, Served
from serve.jobs.simulated.findings import by_person
from serve.jobs.simulated.people import Common
from serve.jobs.simulated.protocol import Experiment, Plan
from serve.jobs.simulated.server import started
from serve.jobs.simulated.tastes import TasteFamily

K = 3  # pieces of feedback before people are served
NUM_PROMPTS = 30  # that people are served, all together; plain answers to each are what gains are counted from
TAUGHT_SEED = 1_000  # of those who teach; those who are served have another
LEARNING = ("traffic", "fit", "steer", "answers", "adapt", "release", "publish")
LIMIT_S = 1_800.0
NOT_BETTER = 3
PATIENCE_S = 30.0  # for a published version to serve
LOOK_S = 0.1


@dataclass(frozen=True)
class Size:
    """How much is done."""

    num_people: int  # who teach
    num_events: int  # comparisons of each
    num_served: int  # people served, before and after
    prompts_per_person: int
    best_of: int
    tastes: TasteFamily
    common: Common  # what those who teach and those who are served have in common
    is_adapting: bool  # whether adapters are trained
    max_tokens: int
    concurrency: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the chain came to."""

    stages: dict[str, float]  # seconds
    learned: Learned
    is_published: bool
    reasons: tuple[str, ...]  # against publishing
    served: Compared | None  # gain after K pieces of feedback: with the new version, with the shipped one

    @property
    def learning_s(self) -> float:
        """All stages but those that only measure what was gained."""
        return sum(self.stages.get(name, 0.0) for name in LEARNING)

    @property
    def is_good(self) -> bool:
        """Whether people surely gained, within the time."""
        return self.served is not None and self.served.difference.low > 0.0 and self.learning_s <= LIMIT_S


@click.command("chain")
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="Palate's configuration."
)
@click.option("--people", default=300, show_default=True, type=click.IntRange(40), help="Who teach.")
@click.option("--events", default=8, show_default=True, type=click.IntRange(4), help="Comparisons of each.")
@click.option("--served", default=40, show_default=True, type=click.IntRange(2), help="People served before and after.")
@click.option("--prompts-per-person", default=6, show_default=True, type=click.IntRange(2))
@click.option("--best-of", default=4, show_default=True, type=click.IntRange(1, 32))
@click.option(
    "--tastes",
    type=click.Choice(["known", "foreign"]),
    default="foreign",
    show_default=True,
    help="What people care about: what the shipped artifact's population does, or things foreign to it.",
)
@click.option(
    "--common",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0.0, 1.0),
    help="Share of the variance of tastes that all have in common; 0: there is little to learn from others.",
)
@click.option(
    "--groups", default=1, show_default=True, type=click.IntRange(1), help="Groups that each have that much in common."
)
@click.option("--adapt/--no-adapt", "is_adapting", default=True, show_default=True, help="Train adapters as well.")
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(8, 4_096))
@click.option("--concurrency", default=12, show_default=True, type=click.IntRange(1, 1_000))
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the outcome here.")
def chain(
    *,
    config_path: Path | None,
    people: int,
    events: int,
    served: int,
    prompts_per_person: int,
    best_of: int,
    tastes: TasteFamily,
    common: float,
    groups: int,
    is_adapting: bool,
    max_tokens: int,
    concurrency: int,
    json_path: Path | None,
) -> None:
    """From a fresh install to a published version, with its times and what people gain; exits with 3 if they do not."""
    shared = Common(common, groups)
    size = Size(
        people, events, served, prompts_per_person, best_of, tastes, shared, is_adapting, max_tokens, concurrency
    )
    stages = Stages()
    with fresh_home() as home, ExitStack() as stack:
        with stages.timed("start"):
            server = stack.enter_context(started(configuration.load(config_path), home.store_url))
        outcome = asyncio.run(_run(server.url, home, size, stages))
    click.echo(render(outcome))
    if json_path is not None:
        report = {"size": asdict(size), **asdict(outcome), "learning_s": outcome.learning_s, "is_good": outcome.is_good}
        json_path.write_text(json.dumps(report, indent=1))
    raise SystemExit(0 if outcome.is_good else NOT_BETTER)


def render(outcome: Outcome) -> str:
    """Lay the outcome out for people."""
    lines = [f"{name:<16}{seconds:>8.1f} s" for name, seconds in outcome.stages.items()]
    lines.append(f"{'learning':<16}{outcome.learning_s:>8.1f} s of {LIMIT_S:.0f}: {', '.join(LEARNING)}")
    lines += [f"adapt: {told}" for told in outcome.learned.adapters]
    version = outcome.learned.version
    if outcome.served is None:
        lines.append(f"{version} was not published:")
        lines += [f"- {reason}" for reason in outcome.reasons]
        return "\n".join(lines)
    served = outcome.served
    lines.append(
        f"{version} serves. After {K} pieces of feedback: {served.candidate} standard deviations above plain "
        f"answers, {served.in_service} before; difference {served.difference}."
    )
    return "\n".join(lines)


async def _run(url: str, home: Home, size: Size, stages: Stages) -> Outcome:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False) as http:
        return await follow(http, home, size, stages)


async def follow(http: httpx.AsyncClient, home: Home, size: Size, stages: Stages) -> Outcome:
    """Go through all stages against a server that keeps its people in `home`."""
    model = (await http.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
    client = Client(http, model, size.max_tokens, 0.8, size.concurrency)
    plain: dict[str, list[Served]] = {}  # one set of texts for everybody
    with stages.timed("traffic"):
        await _teach(client, size, plain)
    with stages.timed("served before"):
        before = await _gains(client, size, plain)
    learned = await asyncio.to_thread(learn, home, stages)
    if size.is_adapting:
        learned = await asyncio.to_thread(adapt, learned.version, home, stages, size.max_tokens)
    with stages.timed("release"):
        arguments = ("evaluate", "release", learned.version, "--url", home.store_url, "--json")
        code, ruling = await asyncio.to_thread(command, *arguments, accepted=(0, NOT_BETTER))
    reasons = tuple(json.loads(ruling)["reasons"])
    if code:
        return Outcome(stages.seconds, learned, False, reasons, None)
    with stages.timed("publish"):
        await asyncio.to_thread(command, "artifacts", "publish", learned.version)
        await until_serving(http, learned.version)
    with stages.timed("served after"):
        after = await _gains(client, size, plain)
    people = sorted(before)
    values = [np.array([gains[person] for person in people]) for gains in (after, before)]
    return Outcome(stages.seconds, learned, True, reasons, paired(values[0], values[1]))


async def until_serving(http: httpx.AsyncClient, version: str) -> None:
    """Wait until a version serves. Raises EngineUnavailable if it does not."""
    for _ in range(round(PATIENCE_S / LOOK_S)):
        seen = (await http.get("/v1/operator")).raise_for_status().json()["artifact"]
        if seen is not None and seen["version"] == version:
            return
        await asyncio.sleep(LOOK_S)
    raise EngineUnavailable(f"{version} was published, but does not serve after {PATIENCE_S:.0f} s: {seen}")


async def _teach(client: Client, size: Size, plain: dict[str, list[Served]]) -> None:
    plan = Plan(
        num_people=size.num_people,
        prompts_per_person=0,
        steps=(size.num_events,),
        best_of=(),
        feedback="answers",
        tastes=size.tastes,
        common=size.common,
        seed=TAUGHT_SEED,
    )
    prompts = of_role(load_prompts(DEFAULT_PROMPTS), Role.FEEDBACK)
    experiment = Experiment(client, plan, prompts, [], None, lambda _: None, plain=plain)
    with tqdm(desc="plain answers", unit=" answers", total=experiment.num_answers) as bar:
        experiment.progress = bar.update
        await experiment.teach()


async def _gains(client: Client, size: Size, plain: dict[str, list[Served]]) -> dict[str, float]:
    """Serve people after `K` answers to the server's questions; return each one's mean gain."""
    roles = [of_role(load_prompts(DEFAULT_PROMPTS), role) for role in (Role.FEEDBACK, Role.EVALUATION)]
    plan = Plan(
        num_people=size.num_served,
        prompts_per_person=size.prompts_per_person,
        steps=(K,),
        best_of=(size.best_of,),
        tastes=size.tastes,
        common=size.common,
        is_halving=True,
    )
    experiment = Experiment(client, plan, roles[0], roles[1][:NUM_PROMPTS], None, lambda _: None, plain=plain)
    with tqdm(desc="served", unit=" answers") as bar:
        experiment.progress = bar.update
        await experiment.run()
    return {row["person"]: row["gain"] for row in by_person(experiment.scores, "palate")}
