"""`palate steer show`: what steering along each named attribute does, by dose, and what it costs.

Real generations with the attribute's direction at rising doses, both ways: its measured shift, the unsteered model's
log-probability of the texts, repetition, and refusals. A direction steers as far as it does no harm (its audit).
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
from serve.jobs.learning.questions import repeats_itself
from serve.jobs.learning.steer_plot import draw
from serve.jobs.learning.text import Standard, measure
from serve.models import resolve

REFUSAL = re.compile(r"\b(i'm sorry|i am sorry|i apologi[sz]e|i can(?:'t|not)|i'm unable|i am unable|as an ai)\b", re.I)
SAMPLES_PLAIN = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """What a direction must do, and what it may cost, against plain answers."""

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


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a direction may steer."""

    doses: tuple[float, float]  # against and along it; 0: not that way
    reasons: tuple[str, ...] = ()  # why no farther


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
        told = {name: asdict(verdict) for name, verdict in verdicts.items()}
        json_path.write_text(json.dumps({"artifact": artifact.version, "results": rows, "audit": told}, indent=1))
    if out_plot is not None:
        draw(effects, f"{artifact.version}: steering at layer {artifact.feature_space.steered_layer}", out_plot)
    if parent is not None:
        manifest = read_manifest(folder)
        metrics = manifest.metrics | {"steering": rows}
        audited = replace(artifact, audit={name: verdict.doses for name, verdict in verdicts.items()})
        click.echo(save(audited, replace(manifest, metrics=metrics), parent))


def audit(effects: Sequence[Effect], limits: Limits) -> dict[str, Verdict]:
    """Find each attribute's largest bearable dose either way; no dose along it may do nothing for it."""
    plain = next(effect for effect in effects if effect.dose == 0.0)
    verdicts = {}
    for name in dict.fromkeys(effect.attribute for effect in effects if effect.attribute):
        own = [effect for effect in effects if effect.attribute == name]
        ways = [
            sorted((one for one in own if one.dose * sign > 0.0), key=lambda one: -abs(one.dose)) for sign in (-1, 1)
        ]
        doses, reasons = [0.0, 0.0], []
        for way, tried in enumerate(ways):
            for effect in tried:
                cost = _cost(effect, plain, limits)
                if not cost:
                    doses[way] = abs(effect.dose)
                    break
                reasons.append(f"at {effect.dose:+.2f} it {cost}")
        most = max((one for one in ways[1] if one.dose <= doses[1]), key=lambda one: one.dose, default=None)
        if most is not None and most.shift < limits.min_effect:
            doses, reasons = [0.0, 0.0], [*reasons, f"at {most.dose:+.2f} it moves by {most.shift:+.2f} only"]
        verdicts[name] = Verdict((doses[0], doses[1]), tuple(reasons))
    return verdicts


def _cost(effect: Effect, plain: Effect, limits: Limits) -> str:
    """Say what keeps a dose out; empty if nothing does."""
    if plain.logprob - effect.logprob > limits.max_logprob_drop:
        return "costs fluency"
    if effect.degenerate - plain.degenerate > limits.max_degenerate:
        return "makes answers repeat themselves"
    if effect.refusals - plain.refusals > limits.max_refusals:
        return "makes the model refuse"
    return ""


def render(effects: Sequence[Effect], verdicts: dict[str, Verdict]) -> str:
    """Render a table."""
    lines = [f"{'attribute':<14}{'dose':>7}{'shift':>8}{'±':>6}{'log p':>8}{'repeats':>9}{'refuses':>9}"]
    lines += [
        f"{one.attribute or 'plain':<14}{one.dose:>+7.2f}{one.shift:>+8.2f}{one.error:>6.2f}{one.logprob:>8.2f}"
        f"{one.degenerate:>9.1%}{one.refusals:>9.1%}"
        for one in effects
    ]
    for name, verdict in verdicts.items():
        told = "; ".join([f"may steer by {-verdict.doses[0]:+.2f} to {verdict.doses[1]:+.2f}", *verdict.reasons])
        lines.append(f"{name}: {told if any(verdict.doses) else '; '.join(['may not steer', *verdict.reasons])}")
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
                steering = SteeringRequest(
                    arm.coeffs, arm.dose, pool=True, repetition_penalty=arm.repetition_penalty, tilt=arm.tilt
                )
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
        degenerate=float(np.mean([repeats_itself(text) for text in texts])),
        refusals=float(np.mean([bool(REFUSAL.search(text)) for text in texts])),
    )
