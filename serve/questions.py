"""What to ask a person next: answers to choose from, out of the artifact, by what the choice would tell.

Somebody new gets the opening questions in their order; later the most informative one under what is believed.
Knows no store and no HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from router.elicitation import information_gain
from router.types import Posterior
from serve.artifacts.artifact import Artifact, Question


@dataclass(frozen=True, slots=True)
class RankedQuestion:
    """A question with what its answer is expected to tell, in nats (at most log n of n answers)."""

    id: str
    question: Question
    information: float


def question_id(question: Question) -> str:
    """Name a question by its texts."""
    digest = hashlib.sha256("\x00".join([question.prompt, *question.answers]).encode()).hexdigest()
    return f"q-{digest[:16]}"


def next_questions(
    artifact: Artifact, posterior: Posterior | None, answered: Collection[str], limit: int
) -> list[RankedQuestion]:
    """Return up to `limit` questions not yet answered, the next one first."""
    open_questions: Sequence[Question] = [q for q in artifact.questions if question_id(q) not in answered]
    if not open_questions:
        return []
    population = artifact.population
    taste = artifact.space.prior if posterior is None else posterior.taste
    judge = taste.affine(1.0, population.base_weights)
    gains = np.zeros(len(open_questions))
    for num_answers in {len(question.answers) for question in open_questions}:
        alike = [i for i, question in enumerate(open_questions) if len(question.answers) == num_answers]
        options = population.features(np.stack([open_questions[i].features for i in alike]))  # (M, n, D)
        gains[alike] = information_gain(judge, options, population.flip_rate)
    order = np.arange(len(gains)) if posterior is None else np.argsort(-gains, kind="stable")
    return [RankedQuestion(question_id(open_questions[i]), open_questions[i], float(gains[i])) for i in order[:limit]]
