"""`palate steer aim`: measure what steering does to what is read, and steer where it does most for what a person likes.

The covariance directions move features as their covariance says only where states are Gaussian and moving them is free.
Real answers, steered along each direction of taste both ways, say how far each feature really moves for a vector of one
length; the directions are then turned so that a taste's vector is the one of its length that raises the reward most.
Nothing that reads changes, and neither do directions outside the artifact's tastes, nor what tilts logits, which is
left out here. Uses learning prompts alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from router.types import Arm
from serve.artifacts.artifact import Artifact
from serve.artifacts.making import Origin, save_new
from serve.artifacts.registry import Registry
from serve.artifacts.storage import load, read_manifest
from serve.engines.steering_request import SteeringRequest
from serve.home import Home
from serve.jobs.learning.generate import order_seed
from serve.jobs.learning.generator import Order, running
from serve.jobs.learning.prompts import DEFAULT_PROMPTS, Prompt, Role, load_prompts, of_role
from serve.jobs.learning.text import Array
from serve.models import resolve

TEMPERATURE = 0.8
RIDGE = 0.1  # of the mean squared length of a direction


@click.command("aim")
@click.option("--artifact", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Its folder.")
@click.option("--version", default="in-service", show_default=True, help="Or a version that is there.")
@click.option("--dose", default=0.25, show_default=True, type=click.FloatRange(0.01, 1.0), help="Of the residual norm.")
@click.option("--prompts", "num_prompts", default=60, show_default=True, type=click.IntRange(2, 1_000))
@click.option("--max-tokens", default=96, show_default=True, type=click.IntRange(8, 4_096))
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too."
)
@click.option(
    "--into",
    "parent",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the aimed artifact below this folder.",
)
def aim(
    *,
    folder: Path | None,
    version: str,
    dose: float,
    num_prompts: int,
    max_tokens: int,
    seed: int,
    json_path: Path | None,
    parent: Path,
) -> None:
    """Measure what steering along each direction moves, and turn the directions by it."""
    folder = folder or Registry(Home.from_env()).entry(version).folder
    artifact = load(folder)
    prompts = of_role(load_prompts(DEFAULT_PROMPTS), Role.LEARNING)[:num_prompts]
    shifts = asyncio.run(_measure(artifact, prompts, dose, max_tokens, seed))
    shift, error = np.nanmean(shifts, axis=0), np.nanstd(shifts, axis=0) / np.sqrt(len(shifts))
    space = artifact.space
    turn = aim_of(space.dose_metric, space.response, shift, error)
    expected = predicted(space.dose_metric, space.response)
    agreement = float(np.corrcoef(shift.ravel(), expected.ravel())[0, 1])
    click.echo(f"Measured shifts agree with the covariance's by a correlation of {agreement:.2f}.", err=True)
    if json_path is not None:
        report = {"artifact": artifact.version, "dose": dose, "shift": shift.tolist(), "error": error.tolist()}
        json_path.write_text(json.dumps(report | {"agreement": agreement}, indent=1))
    manifest = read_manifest(folder)
    metrics = manifest.metrics | {"aim": {"dose": dose, "prompts": len(prompts), "agreement": agreement}}
    origin = Origin((manifest,), manifest.data, metrics)
    click.echo(save_new(aimed(artifact, turn), artifact.version.rsplit("-", 1)[0], origin, parent))


def predicted(metric: Array, response: Array) -> Array:
    """Say how φ moves by the covariance for a vector of length 1 along each direction (D, D), up to one scale."""
    return np.asarray(response / np.sqrt(np.diag(metric)))


def aim_of(metric: Array, response: Array, shift: Array, error: Array) -> Array:
    """Return A (D, D): coefficients A·w of the directions raise w·φ most for their length; as long as w on the whole.

    `shift` (D, D) is how far φ moves for a vector of one length along each direction, `error` its standard errors:
    where errors are as large as what is measured, the covariance is believed instead. With S the shift for
    coefficients, w·S·c under cᵀ·metric·c = 1 is largest at c ∝ metric⁻¹·Sᵀ·w.
    """
    D = len(metric)
    expected = predicted(metric, response)
    scaled = expected * float(np.sum(shift * expected) / np.sum(expected**2))
    noise = float(np.mean(error**2))
    surprise = max(float(np.mean((shift - scaled) ** 2)) - noise, 0.0)
    trust = surprise / max(surprise + noise, 1e-24)
    believed = scaled + trust * (shift - scaled)
    per_coefficient = believed * np.sqrt(np.diag(metric))
    turn = np.linalg.solve(metric + RIDGE * np.trace(metric) / D * np.eye(D), per_coefficient.T)
    return np.asarray(turn * np.sqrt(np.trace(metric) / np.trace(turn.T @ metric @ turn)))


def aimed(artifact: Artifact, turn: Array) -> Artifact:
    """Turn an artifact's directions by A (D, D): the vector of a taste w becomes what that of A·w was."""
    population, space = artifact.population, artifact.feature_space
    rows = (population.basis / population.scale).T  # (P, D), the engine's coefficients of each reward feature
    change = rows @ (turn - np.eye(len(turn))) @ np.linalg.pinv(rows)  # (P, P), nothing outside the tastes
    directions = space.directions.astype(np.float64)
    return replace(
        artifact,
        feature_space=replace(space, directions=(directions + directions @ change).astype(np.float32)),
        audit={},  # it was another direction's
    )


async def _measure(artifact: Artifact, prompts: list[Prompt], dose: float, max_tokens: int, seed: int) -> Array:
    """Return how far each prompt's φ moves by each direction, (prompts, D features, D directions); NaN if unknown."""
    space = replace(artifact.feature_space, max_dose=dose)
    population = artifact.population
    D = population.num_features
    shifts = np.full((len(prompts), D, D), np.nan)
    path = resolve(space.model, Home.from_env())
    async with running(path, sorted({*space.pooled_layers, space.steered_layer})) as generator:
        await generator.configure(space.worker_config())
        with tqdm(total=2 * D * len(prompts), unit=" answers", desc="aim", file=sys.stderr) as bar:
            for row, direction in enumerate(np.eye(D)):
                orders = []
                for sign in (1.0, -1.0):
                    arm = artifact.engine_arm(Arm("steered", sign * direction, dose))
                    steering = SteeringRequest(
                        arm.coeffs, arm.dose, pool=True, repetition_penalty=arm.repetition_penalty
                    )
                    orders += [
                        Order(
                            prompt.text,
                            order_seed(seed, prompt.id, 0),
                            TEMPERATURE,
                            max_tokens,
                            steering,
                            min_p=arm.min_p,
                        )
                        for prompt in prompts
                    ]
                states = [answer.states for answer in await generator.answers(orders)]
                for number, (more, less) in enumerate(zip(states[: len(prompts)], states[len(prompts) :], strict=True)):
                    if more is not None and less is not None:
                        phi = population.features(np.stack([more, less]).astype(np.float64))
                        shifts[number, :, row] = 0.5 * (phi[0] - phi[1])
                bar.update(len(orders))
    return shifts
