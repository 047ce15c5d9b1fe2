"""`palate features generate`: plain answers of a model to many prompts, with the states of some layers.

The raw material of a feature space, a population and a palette of directions. Resumable: a part is a few prompts.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
import numpy as np
from tqdm import tqdm

from serve.home import Home
from serve.jobs.learning.corpus import Sample, add_part, begin, has_part
from serve.jobs.learning.generator import Answer, Generator, Order, running
from serve.jobs.learning.prompts import DEFAULT_PROMPTS, Prompt, Role, digest_of, load_prompts
from serve.models import DEFAULT_MODEL, resolve

T = TypeVar("T", int, float)
PROMPTS_A_PART = 32


@click.command("generate")
@click.option("--model", default=DEFAULT_MODEL.name, show_default=True, help="Embedded model, or folder.")
@click.option(
    "--prompts",
    "prompts_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=DEFAULT_PROMPTS,
    help="JSON lines with `id` and `prompt`; default: the 249 that come along.",
)
@click.option(
    "--role",
    type=click.Choice(["all", *(role.value for role in Role)]),
    default="all",
    show_default=True,
    help="Only prompts of this role.",
)
@click.option("--layers", default="0,10,14,21", show_default=True, help="Layers to read, comma-separated.")
@click.option("--samples", default=12, show_default=True, type=click.IntRange(2, 256), help="Answers a prompt.")
@click.option("--temperatures", default="0.8", show_default=True, help="Taken in turn.")
@click.option("--max-tokens", default=128, show_default=True, type=click.IntRange(8, 4_096), help="Tokens an answer.")
@click.option("--seed", default=0, show_default=True, help="Decides every answer.")
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="The corpus.")
def generate(
    model: str,
    prompts_path: Path,
    role: str,
    layers: str,
    samples: int,
    temperatures: str,
    max_tokens: int,
    seed: int,
    folder: Path,
) -> None:
    """Generate plain answers with their states; a killed run goes on where it was."""
    prompts = [prompt for prompt in load_prompts(prompts_path) if role in ("all", prompt.role)]
    chosen, warmth = numbers(layers, int), numbers(temperatures, float)
    recipe = {
        "model": model,
        "role": role,
        "prompts_sha256": digest_of(prompts),
        "layers": chosen,
        "samples": samples,
        "temperatures": warmth,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    begin(folder, recipe)
    orders = {
        prompt.id: [
            Order(prompt.text, order_seed(seed, prompt.id, i), warmth[i % len(warmth)], max_tokens)
            for i in range(samples)
        ]
        for prompt in prompts
    }
    parts = [prompts[start : start + PROMPTS_A_PART] for start in range(0, len(prompts), PROMPTS_A_PART)]
    missing = [(i, part) for i, part in enumerate(parts) if not has_part(folder, part_name(i))]
    if missing:
        asyncio.run(_generate(resolve(model, Home.from_env()), chosen, missing, orders, folder))
    click.echo(f"{len(prompts) * samples} answers to {len(prompts)} prompts in {folder}")


async def _generate(
    path: str, layers: list[int], parts: list[tuple[int, list[Prompt]]], orders: dict[str, list[Order]], folder: Path
) -> None:
    total = sum(len(orders[prompt.id]) for _, part in parts for prompt in part)
    async with running(path, layers) as generator:
        await generator.read_layers(layers)
        with tqdm(total=total, unit=" answers", desc="generate", file=sys.stderr) as bar:
            for number, part in parts:
                await _one_part(generator, part_name(number), part, orders, folder)
                bar.update(sum(len(orders[prompt.id]) for prompt in part))


async def _one_part(
    generator: Generator, name: str, part: list[Prompt], orders: dict[str, list[Order]], folder: Path
) -> None:
    asked = [(prompt, order) for prompt in part for order in orders[prompt.id]]
    answers = await generator.answers([order for _, order in asked])
    kept = [
        (prompt, order, answer) for (prompt, order), answer in zip(asked, answers, strict=True) if is_usable(answer)
    ]
    samples = [
        Sample(
            prompt_id=prompt.id,
            prompt=prompt.text,
            text=answer.text,
            seed=order.seed,
            temperature=order.temperature,
            num_tokens=len(answer.token_ids),
            mean_logprob=answer.mean_logprob,
            is_finished=answer.is_finished,
        )
        for prompt, order, answer in kept
    ]
    add_part(folder, name, samples, np.stack([answer.states for _, _, answer in kept if answer.states is not None]))


def is_usable(answer: Answer) -> bool:
    """Whether there is anything to measure: a word, and a state behind it."""
    return answer.states is not None and bool(answer.text.strip())


def part_name(number: int) -> str:
    """Name a part so that names sort as numbers do."""
    return f"part-{number:05d}"


def order_seed(seed: int, name: str, number: int) -> int:
    """Derive the seed of one answer; the same in every run and process."""
    return zlib.crc32(f"{seed}/{name}/{number}".encode())


def numbers(text: str, kind: Callable[[str], T]) -> list[T]:
    """Read comma-separated numbers."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not a list of numbers such as 1,2") from error
