"""Questions for somebody new: two real answers to one prompt each, chosen for what the choice will tell.

The first eight together say most about a taste from the prior; the others are the most telling ones left, at most one a
prompt. Knows no people.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from router.elicitation import MAX_OPENING, information_gain, opening_questions
from router.selection import degeneracy
from serve.artifacts.artifact import Artifact, Question
from serve.jobs.learning.corpus import Sample
from serve.jobs.learning.text import Array, Text

MAX_PROMPT = 220  # characters: a question is read in a moment
MIN_WORDS, MAX_WORDS = 15, 90
MAX_PAIRS = 4000


def choose_questions(
    artifact: Artifact, samples: Sequence[Sample], features: Array, num_questions: int, rng: np.random.Generator
) -> tuple[Question, ...]:
    """Choose questions among answers (n,) with engine features (n, P); fewer if the corpus has no more that are fit."""
    pairs = _pairs(samples, rng)
    if len(pairs) < MAX_OPENING:
        return ()
    population, prior = artifact.population, artifact.space.prior
    phi = population.features(features)
    differences = phi[pairs[:, 0]] - phi[pairs[:, 1]]
    opening = opening_questions(
        prior, differences, min(MAX_OPENING, num_questions), rng, flip_rate=population.flip_rate
    )
    chosen = list(opening)
    asked = {samples[pairs[i, 0]].prompt_id for i in chosen}
    for i in np.argsort(-information_gain(prior, differences, population.flip_rate)):
        prompt = samples[pairs[i, 0]].prompt_id
        if len(chosen) < num_questions and prompt not in asked:
            chosen.append(int(i))
            asked.add(prompt)
    return tuple(_question(samples[a], samples[b], features[[a, b]]) for a, b in pairs[chosen])


def _question(first: Sample, second: Sample, features: Array) -> Question:
    return Question(first.prompt, (first.text.strip(), second.text.strip()), features.astype(np.float32))


def _pairs(samples: Sequence[Sample], rng: np.random.Generator) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Pair whole, readable answers to the same short prompt."""
    fit = [i for i, sample in enumerate(samples) if is_readable(sample)]
    pairs = [(a, b) for k, a in enumerate(fit) for b in fit[k + 1 :] if samples[a].prompt_id == samples[b].prompt_id]
    order = rng.permutation(len(pairs))[:MAX_PAIRS]
    return np.array([pairs[i] for i in order], np.int64).reshape(-1, 2)


def is_readable(sample: Sample) -> bool:
    """Whether an answer can be put before a person: whole, of a length that is read, without endless repetition."""
    words = Text(sample.text).words
    fits = MIN_WORDS <= len(words) <= MAX_WORDS and sample.text.isascii()
    return fits and sample.is_finished and len(sample.prompt) <= MAX_PROMPT and degeneracy_of(words) < 0.2


def degeneracy_of(words: Sequence[str]) -> float:
    """Measure repetition over words, in [0, 1]."""
    numbers: dict[str, int] = {}
    return degeneracy([numbers.setdefault(word, len(numbers)) for word in words])
