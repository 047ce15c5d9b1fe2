"""The artifact of the scripted engine: two kinds of people who like other words, in a space where words have names.

Made here rather than fitted, so that tests of the whole way, from thumb to answer, need neither weights nor files.
"""

from __future__ import annotations

import numpy as np

from router.types import Population
from serve.artifacts.artifact import Artifact, Question
from serve.engines.scripted_words import TOKEN, WORD_FEATURES, features_of_words, scripted_feature_space

QUESTIONS = (
    ("How was it?", ("Good.", "Clear and plain, like more of that.")),
    ("What next?", ("Do so on.", "There may be some other way.", "Then one can say more of that.")),
    ("Is it long?", ("It is.", "One can say so, if one likes to.", "So it is.", "There is some other.")),
)


def scripted_artifact(model: str) -> Artifact:
    """Return the scripted engine's artifact."""
    space = scripted_feature_space(model)
    size = space.num_features
    means = np.zeros((2, size))
    means[:, 0] = (2.0, -2.0)
    population = Population(
        basis=np.eye(size),
        center=np.zeros(size),
        scale=np.full(size, 0.3),
        mixture_weights=np.array([0.5, 0.5]),
        means=means,
        covariances=np.stack([np.eye(size)] * 2),
        base_weights=np.zeros(size),
        attribute_names=WORD_FEATURES,
        version="scripted-1",
    )
    questions = tuple(
        Question(prompt, answers, features_of_words([TOKEN.findall(answer) for answer in answers], space.id).values)
        for prompt, answers in QUESTIONS
    )
    return Artifact(population, space, response=np.eye(size), instructions=(), questions=questions, max_dose=0.2)
