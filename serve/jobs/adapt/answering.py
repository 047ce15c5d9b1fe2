"""The base's and the adapters' answers from the real engine, read as the server reads candidates.

Same prompts, same seeds, features by the worker extension. Adapters act above the layers that are read, so features are
the base model's reading of every text. Knows neither people nor training.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from router.types import Population
from serve.artifacts.artifact import Artifact
from serve.jobs.adapt.judging import Answers
from serve.jobs.learning.generate import order_seed
from serve.jobs.learning.generator import Answer, Generator, Order, running
from serve.jobs.learning.prompts import Prompt
from serve.jobs.learning.questions import repeats_itself
from serve.jobs.learning.steer import REFUSAL

TEMPERATURE = 0.8
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for


@dataclass(frozen=True, slots=True)
class Asking:
    """What is asked of the engine."""

    prompts: tuple[Prompt, ...]
    samples: int  # answers a prompt
    max_tokens: int
    seed: int
    rank: int  # of the adapters

    @property
    def num_orders(self) -> int:
        """Answers of each adapter, and of the base."""
        return len(self.prompts) * self.samples


@dataclass(frozen=True, eq=False)
class Answered:
    """One way's answers."""

    texts: tuple[str, ...]
    read: Answers


async def ask(
    artifact: Artifact,
    path: str,
    adapters: Sequence[str | None],
    asking: Asking,
    progress: Callable[[int], object],
) -> list[Answered]:
    """Let the base (None) and adapters answer; `progress` is called with the number of answers that came."""
    space = artifact.feature_space
    orders = [
        Order(prompt.text, order_seed(asking.seed, prompt.id, sample), TEMPERATURE, asking.max_tokens)
        for prompt in asking.prompts
        for sample in range(asking.samples)
    ]
    layers = sorted({*space.pooled_layers, space.steered_layer})
    found = []
    async with running(path, layers, max_lora_rank=next(room for room in RANKS if room >= asking.rank)) as generator:
        await generator.configure(space.worker_config())
        for adapter in adapters:
            mine = [replace(order, adapter=adapter) for order in orders]
            answers = await generator.answers(mine)
            scores = await _scores(generator, mine, answers)
            found.append(read(answers, scores, artifact.population, asking.samples))
            progress(len(answers))
    return found


def read(answers: Sequence[Answer], scores: Sequence[float], population: Population, samples: int) -> Answered:
    """Arrange answers by prompt. One without a state (a single token) reads as the population's centre."""
    features = population.features(
        np.stack([population.center if one.states is None else one.states for one in answers]).astype(np.float64)
    )
    shape = (-1, samples)
    repeated = np.array([repeats_itself(one.text) for one in answers], np.float64)
    refused = np.array([bool(REFUSAL.search(one.text)) for one in answers], np.float64)
    return Answered(
        texts=tuple(one.text for one in answers),
        read=Answers(
            features=features.reshape(*(len(answers) // samples, samples), -1),
            logprobs=np.array(scores, np.float64).reshape(shape),
            num_tokens=np.array([len(one.token_ids) for one in answers], np.float64).reshape(shape),
            degenerate=repeated.reshape(shape),
            refusals=refused.reshape(shape),
        ),
    )


async def _scores(generator: Generator, orders: Sequence[Order], answers: Sequence[Answer]) -> list[float]:
    """Read each text's log-probability under the base model."""
    return list(
        await asyncio.gather(
            *(generator.score(order, answer.text) for order, answer in zip(orders, answers, strict=True))
        )
    )
