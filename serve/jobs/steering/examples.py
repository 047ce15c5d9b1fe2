"""What a direction looks like in texts: answers to one prompt that lie far apart along it, and what goes with it.

From a corpus of the model's own generations, or from the artifact's questions: never from people's texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router.types import Population
from serve.artifacts.artifact import Artifact
from serve.jobs.learning.attributes import ATTRIBUTES
from serve.jobs.learning.corpus import Corpus, join
from serve.jobs.learning.properties import PROPERTIES
from serve.jobs.learning.questions import is_readable
from serve.jobs.learning.spaces import Index, numbered, project, within_prompts
from serve.jobs.learning.text import Array, measure

MIN_CORRELATION = 0.15
NUM_CORRELATES = 3


@dataclass(frozen=True, eq=False)
class Texts:
    """Answers that may be shown."""

    prompts: tuple[str, ...]  # (n,)
    answers: tuple[str, ...]  # (n,)
    features: Array  # (n, P) raw

    @property
    def numbers(self) -> Index:
        """Each answer's prompt, by number (n,)."""
        known: dict[str, int] = {}
        return numbered(np.array([known.setdefault(prompt, len(known)) for prompt in self.prompts], np.int64))


@dataclass(frozen=True, slots=True)
class Example:
    """Two answers to one prompt, and how far apart they are in standard deviations."""

    prompt: str
    high: str
    low: str
    gap: float


def texts_of(artifact: Artifact, corpora: Sequence[Corpus]) -> Texts:
    """Take the corpora's readable answers; without any, those of the artifact's questions."""
    if corpora:
        corpus = join(corpora)
        features = project(corpus, artifact.feature_space)
        kept = [index for index, sample in enumerate(corpus.samples) if is_readable(sample)]
        samples = [corpus.samples[index] for index in kept]
        return Texts(
            tuple(sample.prompt for sample in samples), tuple(sample.text.strip() for sample in samples), features[kept]
        )
    questions = artifact.questions
    prompts = tuple(question.prompt for question in questions for _ in question.answers)
    answers = tuple(answer for question in questions for answer in question.answers)
    rows = [row for question in questions for row in question.features]
    return Texts(
        prompts, answers, np.array(rows, np.float64).reshape(len(answers), artifact.feature_space.num_features)
    )


def examples_of(texts: Texts, scores: Array, num: int) -> list[Example]:
    """Return the prompts whose answers lie farthest apart by `scores` (n,), with the two ends of each."""
    numbers = texts.numbers
    found = []
    for prompt in range(int(numbers.max(initial=-1)) + 1):
        members = np.flatnonzero(numbers == prompt)
        high, low = members[scores[members].argmax()], members[scores[members].argmin()]
        gap = float(scores[high] - scores[low])
        found.append(Example(texts.prompts[high], texts.answers[high], texts.answers[low], gap))
    return sorted((one for one in found if one.gap > 0.0), key=lambda one: -one.gap)[:num]


def correlates(texts: Texts, scores: Array) -> list[tuple[str, float]]:
    """Return what is measured of texts and goes with the scores (n,) between answers to one prompt, strongest first."""
    family = (*ATTRIBUTES, *PROPERTIES)
    numbers = texts.numbers
    values = within_prompts(measure(texts.answers, family), numbers)
    centred = within_prompts(scores[:, None], numbers)[:, 0]
    size = np.sqrt((values**2).sum(axis=0) * (centred**2).sum())
    found = np.divide(centred @ values, size, out=np.zeros(len(family)), where=size > 0.0)
    order = np.argsort(-np.abs(found))
    names: dict[str, float] = {}
    for index in order:
        if abs(found[index]) >= MIN_CORRELATION:
            names.setdefault(family[index].name, round(float(found[index]), 2))
    return list(names.items())[:NUM_CORRELATES]


def scores_of(texts: Texts, population: Population, row: Array) -> Array:
    """Return every answer's score (n,) along a row over standardised features."""
    return np.asarray((texts.features - population.center) / population.scale @ row)
