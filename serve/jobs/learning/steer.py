"""`palate steer show`: what steering along each named attribute does, by dose, and what it costs.

Real generations with the attribute's direction at rising doses, both ways: its measured shift, the unsteered model's
log-probability of the texts, repetition, and refusals. A direction that harms may judge but not steer (its audit).
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from router.types import Arm
from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import Registry
from serve.artifacts.storage import load, read_manifest, save
from serve.engines.steering_request import SteeringRequest
from serve.home import Home
from serve.jobs.learning.attributes import ATTRIBUTES
from serve.jobs.learning.generate import numbers, order_seed
from serve.jobs.learning.generator import Answer, Generator, Order, running
from serve.jobs.learning.prompts import DEFAULT_PROMPTS, Prompt, Role, load_prompts, of_role
from serve.jobs.learning.questions import degeneracy_of
from serve.jobs.learning.steer_plot import draw
from serve.jobs.learning.text import Standard, Text, measure
from serve.models import resolve

REFUSAL = re.compile(r"\b(i'm sorry|i am sorry|i apologi[sz]e|i can(?:'t|not)|i'm unable|i am unable|as an ai)\b", re.I)
DEGENERATE = 0.5  # share of repeated 4-grams, as the guards' veto
SAMPLES_PLAIN = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """What a direction may cost at the largest dose, against plain answers."""

    min_effect: float = 0.2  # standard deviations in the direction asked for
    max_logprob_drop: float = 0.5  # nats a token, under the unsteered model
    max_degenerate: float = 0.1  # more of the answers
    max_refusals: float = 0.1


@dataclass(frozen=True, slots=True)
class Effect:
    """One attribute at one signed dose, against plain answers to the same prompts."""

    attribute: str
    dose: float  # negative: steered away from it
    shift: float  # of the attribute, in standard deviations of plain answers
    error: float  # standard error of the shift
    logprob: float  # mean per token, under the unsteered model
    degenerate: float  # share of answers
    refusals: float


@click.command("show")
@click.option("--artifact", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Its folder.")
@click.option("--version", default="in-service", show_default=True, help="Or a version that is there.")
@click.option("--doses", default="0.1,0.2,0.3", show_default=True, help="Shares of the residual norm, comma-separated.")
@click.option("--prompts", "num_prompts", default=16, show_default=True, type=click.IntRange(2, 1_000))
@click.option("--max-tokens", default=96, show_default=True, type=click.IntRange(8, 4_096))
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too."
)
@click.option("--out-plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw a PNG here.")
@click.option(
    "--into",
    "parent",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the artifact with this audit below this folder.",
)
def show(
    *,
    folder: Path | None,
    version: str,
    doses: str,
    num_prompts: int,
    max_tokens: int,
    seed: int,
    json_path: Path | None,
    out_plot: Path | None,
    parent: Path | None,
) -> None:
    """Measure dose against effect for the named attributes."""
    folder = folder or Registry(Home.from_env()).entry(version).folder
    artifact = load(folder)
    chosen = sorted(numbers(doses, float))
    prompts = of_role(load_prompts(DEFAULT_PROMPTS), Role.FEEDBACK)[:num_prompts]
    effects = asyncio.run(_measure(artifact, prompts, chosen, max_tokens, seed))
    verdicts = audit(effects, Limits())
    click.echo(render(effects, verdicts))
    rows = [asdict(effect) for effect in effects]
    if json_path is not None:
        json_path.write_text(json.dumps({"artifact": artifact.version, "results": rows, "audit": verdicts}, indent=1))
    if out_plot is not None:
        draw(effects, f"{artifact.version}: steering at layer {artifact.feature_space.steered_layer}", out_plot)
    if parent is not None:
        manifest = read_manifest(folder)
        metrics = manifest.metrics | {"steering": rows}
        audited = replace(artifact, audit={name: verdict == "" for name, verdict in verdicts.items()})
        click.echo(save(audited, replace(manifest, metrics=metrics), parent))


def audit(effects: Sequence[Effect], limits: Limits) -> dict[str, str]:
    """Judge each attribute at its largest doses: empty if it may steer, else the reason why not."""
    plain = next(effect for effect in effects if effect.dose == 0.0)
    verdicts = {}
    for name in dict.fromkeys(effect.attribute for effect in effects if effect.attribute):
        own = [effect for effect in effects if effect.attribute == name]
        most, least = max(own, key=lambda effect: effect.dose), min(own, key=lambda effect: effect.dose)
        costs = (most, least) if least.dose < 0 else (most,)
        reason = ""
        if most.shift < limits.min_effect:
            reason = f"moves it by {most.shift:+.2f} only"
        elif plain.logprob - min(effect.logprob for effect in costs) > limits.max_logprob_drop:
            reason = "costs fluency"
        elif max(effect.degenerate for effect in costs) - plain.degenerate > limits.max_degenerate:
            reason = "makes answers repeat themselves"
        elif max(effect.refusals for effect in costs) - plain.refusals > limits.max_refusals:
            reason = "makes the model refuse"
        verdicts[name] = reason
    return verdicts


def render(effects: Sequence[Effect], verdicts: dict[str, str]) -> str:
    """Render a table."""
    lines = [f"{'attribute':<14}{'dose':>7}{'shift':>8}{'±':>6}{'log p':>8}{'repeats':>9}{'refuses':>9}"]
    lines += [
        f"{one.attribute or 'plain':<14}{one.dose:>+7.2f}{one.shift:>+8.2f}{one.error:>6.2f}{one.logprob:>8.2f}"
        f"{one.degenerate:>9.1%}{one.refusals:>9.1%}"
        for one in effects
    ]
    lines += [f"{name}: {f'may not steer: {reason}' if reason else 'may steer'}" for name, reason in verdicts.items()]
    return "\n".join(lines)


async def _measure(
    artifact: Artifact, prompts: list[Prompt], doses: list[float], max_tokens: int, seed: int
) -> list[Effect]:
    space = replace(artifact.feature_space, max_dose=max(doses))
    names = [name for name in artifact.population.attribute_names if name]
    cases = [(name, sign * dose) for name in names for sign in (1, -1) for dose in doses]
    path = resolve(space.model, Home.from_env())
    async with running(path, sorted({*space.pooled_layers, space.steered_layer})) as generator:
        await generator.configure(space.worker_config())
        num_answers = len(prompts) * (SAMPLES_PLAIN + len(cases))
        with tqdm(total=num_answers, unit=" answers", desc="steer", file=sys.stderr) as bar:
            orders = [
                Order(prompt.text, order_seed(seed, prompt.id, i), 0.8, max_tokens)
                for i in range(SAMPLES_PLAIN)
                for prompt in prompts
            ]
            plain = await _answered(generator, orders)
            standard = Standard.of(measure([answer.text for answer, _ in plain], ATTRIBUTES))
            bar.update(len(orders))
            effects = [_effect("", 0.0, plain, standard, len(prompts))]
            for name, dose in cases:
                row = artifact.population.attribute_names.index(name)
                direction = np.sign(dose) * np.eye(artifact.population.num_features)[row]
                arm = artifact.engine_arm(Arm("steered", direction, abs(dose)))
                steering = SteeringRequest(arm.coeffs, arm.dose, pool=True)
                steered = [replace(order, steering=steering, min_p=arm.min_p) for order in orders[: len(prompts)]]
                answers = await _answered(generator, steered)
                effects.append(_effect(name, dose, answers, standard, len(prompts)))
                bar.update(len(steered))
    return effects


async def _answered(generator: Generator, orders: list[Order]) -> list[tuple[Answer, float]]:
    """Generate, and read each text's log-probability under the unsteered model."""
    answers = await generator.answers(orders)
    scores = await asyncio.gather(
        *(generator.score(order, answer.text) for order, answer in zip(orders, answers, strict=True))
    )
    return list(zip(answers, scores, strict=True))


def _effect(
    name: str, dose: float, answers: Sequence[tuple[Answer, float]], standard: Standard, num_prompts: int
) -> Effect:
    texts = [answer.text for answer, _ in answers]
    family = [one.name for one in ATTRIBUTES]
    shifts = standard(measure(texts, ATTRIBUTES))[:, family.index(name)] if name in family else np.zeros(len(texts))
    return Effect(
        attribute=name,
        dose=dose,
        shift=float(shifts.mean()),
        error=float(shifts.std() / np.sqrt(num_prompts)),
        logprob=float(np.mean([score for _, score in answers])),
        degenerate=float(np.mean([degeneracy_of(Text(text).words) >= DEGENERATE for text in texts])),
        refusals=float(np.mean([bool(REFUSAL.search(text)) for text in texts])),
    )
