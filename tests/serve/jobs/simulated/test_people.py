"""Evaluation people and what they make of texts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from serve.jobs.learning.properties import PROPERTIES
from serve.jobs.learning.text import measure
from serve.jobs.simulated.people import Common, Judging, Meter, draw_people
from serve.jobs.simulated.tastes import FOREIGN, names_of, overlap

PLAIN = "The house is old. It was sold by the town."
RAISED = {
    "you": "You sold your house.",
    "we_and_i": "We sold my house.",
    "short_forms": "It's old and they're rich.",
    "names": "The house of Anna in Paris was sold by Peter.",
    "numbers": "The house is 120 years old, sold in 1990.",
    "breath": "The house that stood on the hill behind the town for many long years was sold by the people.",
    "exclaiming": "The house is old! It was sold!",
    "quoting": 'The "house" is "old".',
    "announcing": "Facts: the house is old. Note: sold.",
    "asides": "The house (old) was sold (by the town).",
    "being": "It is old, was old, and is to be old.",
    "articles": "The house, the town, the hill and a tree.",
    "third_person": "They sold it; everyone saw it.",
    "past_tense": "The house looked dated and was finished, painted.",
    "short_lines": "Old.\nSold.\nGone.",
    "prepositions": "In the town on the hill by the house of old.",
    "commas": "Old, sold, gone, lost.",
}


@pytest.mark.parametrize("name", names_of((*PROPERTIES, *FOREIGN)))
def test_a_taste_measures_what_it_names(name: str) -> None:
    family = [one for one in (*PROPERTIES, *FOREIGN) if one.name == name]
    raised, plain = measure([RAISED[name], PLAIN], family)[:, 0]
    assert raised > plain


def plain_values(num: int = 300) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    values = np.random.default_rng(0).normal(size=(num, 6))
    values[:, 1] = -0.8 * values[:, 0] + 0.6 * values[:, 1]
    return values


def test_families_have_their_shares_and_their_shape() -> None:
    people = draw_people(40, plain_values(), seed=1)
    assert Counter(person.kind for person in people) == {
        "sparse": 20,
        "dense": 10,
        "contradictory": 6,
        "drifting": 4,
    }
    for person in people:
        assert np.linalg.norm(person.weights) == pytest.approx(1.0)
        assert (person.earlier is person.weights) == (person.kind != "drifting")
        assert (person.weights != 0).sum() in {"sparse": (2, 3), "dense": (6,), "contradictory": (2,)}.get(
            person.kind, (2, 3)
        )
    correlation = np.corrcoef(plain_values().T)
    for person in people:
        if person.kind == "contradictory":
            first, second = np.flatnonzero(person.weights)
            lowest = (correlation[first].min(), correlation[second].min())
            assert np.isclose(correlation[first, second], lowest).any()
            assert person.weights[first] == person.weights[second]


@pytest.mark.parametrize("num_groups", [1, 3])
def test_people_have_their_share_in_common_whichever_of_them_are_drawn(num_groups: int) -> None:
    values = plain_values()
    common = Common(0.5, num_groups, seed=4)
    taught, served = (draw_people(120, values, seed, common) for seed in (1, 2))
    first, second = (np.array([person.utility(values) for person in people]) for people in (taught, served))
    alike = np.corrcoef(first, second)[:120, 120:]  # of one group with the other draw's
    is_together = (np.arange(120)[:, None] - np.arange(120)) % num_groups == 0
    assert alike[is_together].mean() == pytest.approx(0.5, abs=0.05)
    assert num_groups == 1 or abs(alike[~is_together].mean()) < 0.35  # groups' tastes are drawn apart, not opposite
    assert all(np.linalg.norm(person.weights) == pytest.approx(1.0) for person in taught)


def test_with_nothing_in_common_people_are_who_they_were() -> None:
    values = plain_values()
    for one, other in zip(draw_people(8, values, 1), draw_people(8, values, 1, Common(0.0, 2)), strict=True):
        np.testing.assert_array_equal(one.weights, other.weights)


def test_utility_is_standardised_over_plain_answers() -> None:
    values = plain_values()
    for person in draw_people(10, values, seed=2):
        utility = person.utility(values)
        assert utility.mean() == pytest.approx(0.0, abs=1e-9)
        assert utility.std() == pytest.approx(1.0)


def test_choices_follow_utility_with_the_flips_asked_for() -> None:
    values = plain_values()
    person = draw_people(1, values, seed=3)[0]
    rng = np.random.default_rng(4)
    judging = Judging(sharpness=1e4, flip_rate=0.2)
    utility = person.utility(values)
    for num in (2, 4):
        shown = [rng.choice(len(values), size=num, replace=False) for _ in range(2000)]
        right = [person.chooses(values[rows], False, judging, rng) == np.argmax(utility[rows]) for rows in shown]
        assert abs(np.mean(right) - 0.8) < 0.03


def test_two_answers_are_chosen_between_by_the_logistic_law() -> None:
    values = plain_values()
    person, rng = draw_people(1, values, seed=3)[0], np.random.default_rng(5)
    judging = Judging(sharpness=1.0, flip_rate=0.0)
    rows = np.argsort(person.utility(values))[[0, len(values) // 2]]
    gap = float(np.diff(person.utility(values[rows]))[0])
    share = np.mean([person.chooses(values[rows], False, judging, rng) for _ in range(4000)])
    assert share == pytest.approx(1.0 / (1.0 + np.exp(-gap)), abs=0.03)


def test_the_same_seed_draws_the_same_people() -> None:
    first, second = (draw_people(5, plain_values(), seed=7) for _ in range(2))
    assert [person.weights.tolist() for person in first] == [person.weights.tolist() for person in second]


def test_the_meter_standardises_by_plain_texts() -> None:
    texts = [PLAIN, *RAISED.values()]
    values = Meter.of(texts)(texts)
    assert values.shape == (len(texts), len(PROPERTIES))
    assert np.abs(values).max() <= 3.0


def test_overlap_is_one_for_a_linear_reading_and_none_for_noise() -> None:
    values = plain_values()
    noise = np.random.default_rng(9).normal(size=values.shape)
    assert overlap(values, 2.0 * values).min() > 0.98
    assert overlap(values, noise).max() < 0.1
