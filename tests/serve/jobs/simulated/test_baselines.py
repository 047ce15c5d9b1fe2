"""What others would do with the same feedback."""

from __future__ import annotations

import numpy as np

from serve.jobs.learning.properties import PROPERTIES
from serve.jobs.simulated.baselines import PHRASES, Choice, embedding_weights, pick, profile_sentence
from serve.jobs.simulated.people import Meter
from serve.jobs.simulated.tastes import FOREIGN, names_of

PLAIN = ["The house is old.", 'He said "no" twice.', "You are here!", "Then, as before, he left (late)."]


def test_the_sentence_names_what_chosen_texts_have_more_and_less_of() -> None:
    meter = Meter.of(PLAIN)
    quoted, addressed = 'He said "no" and "yes".', "You and your house."
    likes = profile_sentence([Choice("", quoted, addressed)] * 3, meter)
    dislikes = profile_sentence([Choice("", addressed, quoted)] * 3, meter)
    assert "likes" in likes
    assert PHRASES["quoting"] in likes.split("dislikes")[0]
    assert PHRASES["quoting"] in dislikes.split("dislikes")[1]


def test_every_taste_has_a_phrase() -> None:
    assert set(PHRASES) >= set(names_of((*PROPERTIES, *FOREIGN)))


def test_embedding_weights_find_the_direction_that_was_chosen() -> None:
    rng = np.random.default_rng(0)
    direction = np.array([1.0, -1.0, 0.0, 0.0])
    first, second = rng.normal(size=(2, 200, 4))
    is_first = ((first - second) @ direction > 0)[:, None]
    weights = embedding_weights(np.where(is_first, first, second), np.where(is_first, second, first), 10.0)
    cosine = weights @ direction / np.linalg.norm(weights) / np.linalg.norm(direction)
    assert cosine > 0.95
    candidates = rng.normal(size=(8, 4))
    assert pick(candidates, weights) == int(np.argmax(candidates @ weights))
