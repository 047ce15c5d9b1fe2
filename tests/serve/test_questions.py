"""What to ask next."""

import math

import numpy as np

from router.posterior import prior, update
from router.types import Comparison
from serve.questions import next_questions, question_id
from tests.serve.artifacts_for_tests import make_artifact

ARTIFACT = make_artifact()


def test_somebody_new_gets_the_opening_questions_in_their_order() -> None:
    found = next_questions(ARTIFACT, None, set(), 3)
    assert [item.question for item in found] == list(ARTIFACT.questions[:3])
    assert all(0 < item.information <= math.log(2) for item in found)


def test_what_was_answered_is_not_asked_again() -> None:
    answered = {question_id(question) for question in ARTIFACT.questions[:3]}
    assert [item.question for item in next_questions(ARTIFACT, None, answered, 9)] == [ARTIFACT.questions[3]]
    assert next_questions(ARTIFACT, None, {question_id(q) for q in ARTIFACT.questions}, 9) == []


def test_with_a_taste_the_most_informative_comes_first_and_a_settled_one_last() -> None:
    population = ARTIFACT.population
    pair = population.features(np.asarray(ARTIFACT.questions[0].features, np.float64))
    posterior = prior(population)
    for number in range(30):
        posterior = update(population, posterior, Comparison(event_id=f"e{number}", chosen=pair[0], rejected=pair[1]))
    found = next_questions(ARTIFACT, posterior, set(), 9)
    gains = [item.information for item in found]
    assert gains == sorted(gains, reverse=True)
    assert found[-1].question is ARTIFACT.questions[0]
    assert np.isfinite(gains).all()


def test_a_questions_id_is_its_texts() -> None:
    ids = {question_id(question) for question in ARTIFACT.questions}
    assert len(ids) == len(ARTIFACT.questions)
    assert all(name.startswith("q-") for name in ids)
