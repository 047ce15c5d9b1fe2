"""Questions for somebody new: a few real answers to one prompt each, chosen for what the choice will tell.

Of each prompt's answers the set that says most from the prior. The first questions together say most about a taste; the
others are the most telling ones left. Knows no people.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from router.elicitation import information_gain, max_opening, opening_questions
from router.mixture import Mixture
from router.selection import degeneracy
from serve.artifacts.artifact import Artifact, Question
from serve.jobs.learning.corpus import Sample
from serve.jobs.learning.text import Array, Text

MAX_PROMPT = 220  # characters: a question is read in a moment
MIN_WORDS, MAX_WORDS = 15, 90
DEGENERATE = 0.5  # share of repeated 4-grams, as the guards' veto


def choose_questions(
    artifact: Artifact,
    samples: Sequence[Sample],
    features: Array,
    num_questions: int,
    num_answers: int,
    rng: np.random.Generator,
) -> tuple[Question, ...]:
    """Choose questions among answers (n,) with engine features (n, P); fewer if the corpus has no more that are fit.

    Each has `num_answers` answers to choose from, and a prompt of its own.
    """
    population, prior = artifact.population, artifact.space.prior
    judge = prior.affine(1.0, population.base_weights)
    phi = population.features(features)
    by_prompt: dict[str, dict[str, int]] = {}  # prompt -> text -> row: no text twice
    for i, sample in enumerate(samples):
        if is_readable(sample):
            by_prompt.setdefault(sample.prompt_id, {})[sample.text.strip()] = i
    rows = [list(texts.values()) for texts in by_prompt.values() if len(texts) >= num_answers]
    sets = [_telling(judge, phi, those, num_answers) for those in rows]
    num_opening = min(max_opening(num_answers), num_questions)
    if len(sets) < num_opening:
        return ()
    options = phi[np.array(sets)]  # (M, num_answers, D)
    opening = opening_questions(judge, options, num_opening, rng, flip_rate=population.flip_rate)
    order = np.argsort(-information_gain(judge, options, population.flip_rate), kind="stable")
    chosen = [*opening, *(int(i) for i in order if i not in opening)][:num_questions]
    return tuple(_question([samples[row] for row in sets[i]], features[sets[i]]) for i in chosen)


def _telling(judge: Mixture, phi: Array, rows: Sequence[int], num_answers: int) -> list[int]:
    """Pick answers among `rows` to choose from: the pair that tells most, then one by one what adds most."""
    sets = [list(pair) for pair in combinations(rows, 2)]
    while True:
        best = sets[int(np.argmax(information_gain(judge, phi[np.array(sets)])))]
        if len(best) == num_answers:
            return best
        sets = [[*best, row] for row in rows if row not in best]


def _question(samples: Sequence[Sample], features: Array) -> Question:
    texts = tuple(sample.text.strip() for sample in samples)
    return Question(samples[0].prompt, texts, features.astype(np.float32))


def is_readable(sample: Sample) -> bool:
    """Whether an answer can be put before a person: whole, of a length that is read, without endless repetition."""
    words = Text(sample.text).words
    fits = MIN_WORDS <= len(words) <= MAX_WORDS and sample.text.isascii()
    return fits and sample.is_finished and len(sample.prompt) <= MAX_PROMPT and degeneracy_of(words) < 0.2


def repeats_itself(text: str) -> bool:
    """Whether a text runs in circles: what the guards veto, over all that white space parts."""
    return degeneracy_of(text.split()) >= DEGENERATE


def degeneracy_of(words: Sequence[str]) -> float:
    """Measure repetition over words, in [0, 1]."""
    numbers: dict[str, int] = {}
    return degeneracy([numbers.setdefault(word, len(numbers)) for word in words])
