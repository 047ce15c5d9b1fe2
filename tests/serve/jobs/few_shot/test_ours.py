"""People alike by Bayes' rule, and trust in opinions of which is known what they are worth."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit

from router.types import Array
from serve.jobs.few_shot.models import as_evidence
from serve.jobs.few_shot.ours import Asked, learn_trust, lookalikes_probability

Say = Callable[[np.random.Generator, Array], Array]  # true log-odds (M,) of the given answers -> opinions (M, 4)


def test_people_count_as_likely_as_they_give_the_answers() -> None:
    latents = np.array([[1.0, 0.0], [-2.0, 0.5]])  # one taste and a threshold each
    phi, offsets = np.array([[1.0], [-1.0], [0.0]]), np.array([0.3, 0.0, 0.0])
    shots, questions = np.array([[0, 1, 0], [0, -1, -1]]), np.array([[1, -1, 1]])
    answered, asked = as_evidence(phi, offsets, shots), as_evidence(phi, offsets, questions)
    first = expit(2.3) * expit(1.3)  # the pair, then the thumb up
    second = expit(-3.7) * expit(-1.7 - 0.5)
    expected = (first * expit(-1.0) + second * expit(2.0 + 0.5)) / (first + second)
    assert lookalikes_probability(latents, answered, asked) == pytest.approx([expected])


def test_without_answers_everybody_counts_alike() -> None:
    latents, phi = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[1.0], [0.0]])
    nothing, asked = (as_evidence(phi, np.zeros(2), rows) for rows in (np.zeros((0, 3), dtype=np.int64), ONE))
    assert lookalikes_probability(latents, nothing, asked) == pytest.approx([0.5])


ONE = np.array([[0, 1, 0]])


def rehearsed(say: Say, num_people: int) -> list[Array]:
    """Return what is said of 20 questions to each of the people, whose answers follow known log-odds."""
    rng, people = np.random.default_rng(0), []
    for _ in range(num_people):
        truth = rng.normal(size=20)
        answers = np.where(rng.random(20) < expit(truth), 1.0, -1.0)
        people.append(say(rng, answers * truth))
    return people


def knowing(rng: np.random.Generator, truth: Array) -> Array:
    """The posterior knows, but boasts; all others guess."""
    return np.column_stack([2.0 * truth, *rng.normal(size=(3, 20))])


def guessing(rng: np.random.Generator, truth: Array) -> Array:
    """Everyone knows; a taste adds nothing."""
    return np.column_stack([*rng.normal(size=(3, 20)), truth])


def echoing(rng: np.random.Generator, truth: Array) -> Array:
    """All who know the person know equally much; everyone guesses."""
    return np.column_stack([*truth + rng.normal(size=(3, 20)), rng.normal(size=20)])


def test_an_opinion_that_knows_is_trusted_as_far_as_it_goes() -> None:
    asked: Asked = {("pairs", k, True): rehearsed(knowing, 200) for k in (2, 5)}
    trust = learn_trust(asked)
    np.testing.assert_allclose(trust["pairs", 5, True], [0.5, 0.0, 0.0, 0.0], atol=0.06)


def test_where_tastes_gain_nothing_the_pooled_opinion_stays_alone() -> None:
    trust = learn_trust({("pairs", k, True): rehearsed(guessing, 30) for k in (2, 5)})
    for weights in trust.values():
        assert weights.tolist() == [0.0, 0.0, 0.0, 1.0]


def test_nobody_rehearsed_leaves_the_pooled_opinion() -> None:
    assert learn_trust({("pairs", 2, False): []})["pairs", 2, False].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_voices_weigh_alike_on_unseen_texts_unless_many_people_tell_them_apart() -> None:
    few, many = rehearsed(echoing, 4), rehearsed(knowing, 200)
    apart = {}
    for seen in (True, False):
        weights = learn_trust({("pairs", 5, seen): few})["pairs", 5, seen]
        apart[seen] = np.abs(np.diff(weights[:-1])).max()
    assert apart[False] < 0.5 * apart[True]
    told = learn_trust({("pairs", 5, False): many})["pairs", 5, False]
    assert told[0] > 0.35
    assert told[1:].max() < 0.1
