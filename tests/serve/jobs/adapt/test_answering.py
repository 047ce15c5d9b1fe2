"""How an engine's answers are arranged for the judges."""

from __future__ import annotations

import numpy as np

from serve.jobs.adapt.answering import RANKS, Asking, read
from serve.jobs.learning.generator import Answer
from serve.jobs.learning.prompts import Prompt
from tests.serve.artifacts_for_tests import P, make_population

POPULATION = make_population()


def answer(text: str, value: float | None) -> Answer:
    states = None if value is None else np.full(P, value, np.float32)
    return Answer(text, tuple(range(len(text.split()))), -1.0, is_finished=True, states=states)


def test_answers_are_arranged_by_prompt_and_seed() -> None:
    texts = ["one two", "I'm sorry, I can't.", "so it goes on " * 30, "four"]
    found = read([answer(text, float(i)) for i, text in enumerate(texts)], [-1.0, -2.0, -3.0, -4.0], POPULATION, 2)
    assert found.texts == tuple(texts)
    assert found.read.features.shape == (2, 2, 3)
    np.testing.assert_allclose(found.read.features[1, 0], POPULATION.features(np.full(P, 2.0)))
    assert found.read.logprobs.tolist() == [[-1.0, -2.0], [-3.0, -4.0]]
    assert found.read.num_tokens.tolist() == [[2, 4], [120, 1]]
    assert found.read.refusals.tolist() == [[0, 1], [0, 0]]
    assert found.read.degenerate.tolist() == [[0, 0], [1, 0]]


def test_an_answer_without_a_state_is_nobodys_favourite() -> None:
    found = read([answer("x", None), answer("y", 1.0)], [0.0, 0.0], POPULATION, 2)
    np.testing.assert_allclose(found.read.features[0, 0], np.zeros(3), atol=1e-12)


def test_every_rank_has_room() -> None:
    asking = Asking((Prompt("1", "Hi"), Prompt("2", "Ho")), 3, 64, 0, rank=512)
    assert asking.num_orders == 6
    assert max(RANKS) >= asking.rank
