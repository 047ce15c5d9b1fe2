"""Texts at both ends of a direction."""

from __future__ import annotations

import numpy as np

from serve.jobs.steering.examples import Texts, correlates, examples_of, scores_of, texts_of
from tests.serve.artifacts_for_tests import P, make_artifact

LONG = "This answer goes on and on, sentence after sentence, and then it goes on a little more. " * 3
TEXTS = Texts(
    prompts=("one", "one", "two", "two", "three"),
    answers=("Short.", LONG, "Brief.", LONG + LONG, "Alone."),
    features=np.zeros((5, P)),
)


def test_ends_are_of_one_prompt_and_the_farthest_come_first() -> None:
    scores = np.array([-1.0, 1.0, -4.0, 2.0, 9.0])
    first, second = examples_of(TEXTS, scores, 5)  # a prompt with one answer shows nothing
    assert (first.prompt, first.high, first.low, first.gap) == ("two", LONG + LONG, "Brief.", 6.0)
    assert (second.prompt, second.gap) == ("one", 2.0)
    assert len(examples_of(TEXTS, scores, 1)) == 1


def test_what_goes_with_a_direction_is_read_between_answers_to_one_prompt() -> None:
    found = dict(correlates(TEXTS, np.array([0.0, -1.0, 100.0, 98.0, 7.0])))
    assert found["concise"] > 0.9
    assert correlates(TEXTS, np.array([1.0, 1.0, 2.0, 2.0, 3.0])) == []  # prompts alone differ


def test_without_a_corpus_the_questions_are_shown() -> None:
    artifact = make_artifact()
    texts = texts_of(artifact, [])
    assert texts.prompts[:3] == ("Question 0?", "Question 0?", "Question 1?")
    assert texts.answers[:2] == artifact.questions[0].answers
    row = np.eye(P)[1]
    expected = (artifact.questions[0].features[:, 1] - artifact.population.center[1]) / artifact.population.scale[1]
    np.testing.assert_allclose(scores_of(texts, artifact.population, row)[:2], expected)
