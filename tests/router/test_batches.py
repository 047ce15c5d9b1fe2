"""Many people's modes at once, beside one after another."""

import numpy as np
import pytest

from router.batches import fit_modes
from router.feedback import People
from router.laplace import fit_mode, gaussian
from router.tabulation import tabulate
from router.types import Array, Choice, Comparison, Event, Ranking, Rating, Thumb

L = 4
MEANS = np.array([[0.5, -0.3, 0.0, 0.2], [-1.0, 0.2, 0.4, 0.0]])
PRIOR = gaussian(MEANS, np.stack([np.eye(L), np.diag([0.5, 2.0, 9.0, 1.0])]))
NONE = np.zeros(L - 1)


def event(kind: str, features: Array, number: int) -> Event:
    name, weight = str(number), 0.5 + 0.1 * (number % 5)
    match kind:
        case "comparison":
            return Comparison(event_id=name, chosen=features[0], rejected=features[1], weight=weight)
        case "thumb":
            return Thumb(event_id=name, features=features[0], reference=NONE, value=1, weight=weight)
        case "rating":
            return Rating(event_id=name, features=features[0], reference=NONE, level=number % 5, weight=weight)
        case "ranking":
            return Ranking(event_id=name, features=features, weight=weight)
    return Choice(event_id=name, chosen=features[0], rejected=features[1:], weight=weight)


def people_of(*kinds: str) -> People:
    """Seven people with 0 to 40 events, some of them far out."""
    rng = np.random.default_rng(1)
    people = [
        [event(kinds[i % len(kinds)], spread * rng.normal(size=(3 + i % 3, L - 1)), i) for i in range(num_events)]
        for num_events, spread in ((0, 1.0), (1, 1.0), (7, 9.0), (20, 1.0), (21, 30.0), (3, 1.0), (40, 2.0))
    ]
    table = tabulate(people)
    return table.evidence_of(table.features, np.array([0.3, 0.0, -0.2]))


@pytest.mark.parametrize("flip_rate", [0.0, 0.15])
@pytest.mark.parametrize(
    "kinds",
    [
        ("comparison",),
        ("comparison", "thumb"),
        ("rating", "thumb"),
        ("choice",),
        ("comparison", "choice", "ranking"),
        ("choice", "rating", "thumb"),
    ],
)
def test_many_at_once_are_where_each_is_alone(kinds: tuple[str, ...], flip_rate: float) -> None:
    people = people_of(*kinds)
    starts = np.random.default_rng(2).normal(size=(len(people), 2, L)) * 3.0
    found = fit_modes(people, flip_rate, PRIOR, starts)
    for index, person in enumerate(people):
        alone = fit_mode(person, person.weights, flip_rate, PRIOR, starts[index])
        np.testing.assert_allclose(found.means[index], alone.means, atol=1e-8)
        np.testing.assert_allclose(found.precision[index], alone.precision, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(found.log_evidence[index], alone.log_evidence, rtol=1e-8, atol=1e-8)


def test_a_hollow_mode_among_others_has_the_evidence_of_the_clipped_curvature() -> None:
    far = np.zeros((2, 2, L - 1))
    far[0, 0, 0], far[1, 0, 0] = 4.0, -4.0
    torn = [Comparison(event_id=str(i), chosen=chosen, rejected=rejected) for i, (chosen, rejected) in enumerate(far)]
    table = tabulate([torn, torn[:1]])
    people = table.evidence_of(table.features, np.zeros(L - 1))
    people.offsets[:] = -3.0
    wide = gaussian(np.zeros((1, L)), np.diag([50.0, 1.0, 1.0, 1.0])[None])
    found = fit_modes(people, 0.2, wide, np.zeros((2, 1, L)))
    for index, person in enumerate(people):
        alone = fit_mode(person, person.weights, 0.2, wide, np.zeros((1, L)))
        np.testing.assert_allclose(found.log_evidence[index], alone.log_evidence, atol=1e-8)


def test_some_people_in_any_order() -> None:
    people = people_of("comparison", "choice")
    for index, person in zip((6, 0, 3), people.of(np.array([6, 0, 3])), strict=True):
        np.testing.assert_array_equal(person.designs, people[index].designs)
        np.testing.assert_array_equal(person.groups, people[index].groups)
        np.testing.assert_array_equal(person.weights, people[index].weights)
    assert len(people.of(np.zeros(0, np.int64))) == 0
