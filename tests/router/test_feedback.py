from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from router.feedback import FeedbackTable, binary_table
from router.likelihood import concatenate, encode, log_likelihood
from router.tabulation import RATING_CUTS, tabulate
from router.types import Array, Event, Population, Rating
from tests.router.chances import KINDS, outcomes

P, D = 3, 2


def population() -> Population:
    rng = np.random.default_rng(0)
    return Population(
        basis=rng.normal(size=(D, P)),
        center=rng.normal(size=P),
        scale=np.array([0.5, 1.0, 2.0]),
        mixture_weights=np.ones(1),
        means=np.zeros((1, D)),
        covariances=np.eye(D)[None],
        base_weights=np.array([0.4, -0.3]),
    )


def crowd() -> list[list[Event]]:
    """Three people with raw features: all kinds of events, none, and two."""
    rng = np.random.default_rng(1)
    events = [replace(outcomes(kind, *rng.normal(size=(3, P)))[1], weight=0.5) for kind in KINDS]
    return [events, [], [outcomes(kind, *rng.normal(size=(3, P)))[0] for kind in ("thumb", "ranking")]]


def in_reward_features(model: Population, event: Event) -> Event:
    names = [name for name in ("chosen", "rejected", "features", "reference") if hasattr(event, name)]
    mapped: dict[str, Any] = {name: model.features(getattr(event, name)) for name in names}
    return replace(event, **mapped)


def likelihood(model: Population, events: Sequence[Event], latents: Array) -> Array:
    return log_likelihood(concatenate([encode(model, in_reward_features(model, e)) for e in events]), latents, 0.1)


def test_a_table_says_what_its_events_say() -> None:
    model, people = population(), crowd()
    evidence = tabulate(people).evidence(model)
    latents = np.random.default_rng(2).normal(size=(4, D + 1))
    assert [person.num_groups for person in evidence] == [6, 0, 3]
    for index in (0, 2):
        np.testing.assert_allclose(
            log_likelihood(evidence[index], latents, 0.1), likelihood(model, people[index], latents)
        )
    np.testing.assert_array_equal(evidence[0].weights, 0.5)


def test_differences_turn_rewards_of_items_into_scores() -> None:
    table = tabulate(crowd())
    rewards = np.random.default_rng(3).normal(size=len(table.features))
    scores = table.differences() @ rewards
    assert scores == pytest.approx(rewards[table.plus] - rewards[table.minus])
    np.testing.assert_array_equal(table.row_people, [0] * 8 + [2] * 4)


def test_a_subset_is_the_table_of_those_people() -> None:
    people, prompts = crowd(), np.arange(6, dtype=np.float64).reshape(3, 2)
    table = tabulate(people, prompts=prompts)
    part = table.subset(np.array([1, 2]))
    alone = tabulate(people[1:])
    model = population()
    small = part.compact()
    assert len(small.features) == len(alone.features) < len(part.features)  # only the items they judged
    for one, two, three in zip(part.evidence(model), alone.evidence(model), small.evidence(model), strict=True):
        np.testing.assert_allclose(one.designs, two.designs)
        np.testing.assert_array_equal(one.designs, three.designs)
        np.testing.assert_array_equal(one.groups, two.groups)
    assert part.prompts is not None
    np.testing.assert_array_equal(part.prompts, prompts[1:])
    assert tabulate(people).subset(np.array([0])).prompts is None


def test_binary_rows_are_sorted_by_person() -> None:
    people = np.array([1, 0, 1])
    table = binary_table(np.eye(4), people, np.array([0, 1, 2]), np.array([3, 3, 3]), np.array([0.0, -1.0, 1.0]))
    np.testing.assert_array_equal(table.people, [0, 1, 1])
    np.testing.assert_array_equal(table.plus, [1, 0, 2])
    np.testing.assert_array_equal(table.thresholds, [-1.0, 0.0, 1.0])
    assert table.num_people == 2


def small(**changes: object) -> FeedbackTable:
    table = binary_table(np.eye(3), np.array([0, 1]), np.array([0, 1]), np.array([2, 2]), np.zeros(2))
    return replace(table, **changes)  # type: ignore[arg-type]  # wrong values are the point


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.full((3, 3), np.nan)}, "features must be finite"),
        ({"lows": np.zeros(3)}, "lows must have 2 numbers"),
        ({"plus": np.array([0, 3])}, "must name items 0 to 2"),
        ({"minus": np.array([-1, 0])}, "must name items 0 to 2"),
        ({"people": np.array([1, 0])}, "sort the table by person"),
        ({"num_people": 1}, "must ascend within 0 to 0"),
        ({"prompts": np.zeros((3, 1))}, "prompts must have shape"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_tables_without_feedback_or_with_strange_events_are_refused() -> None:
    with pytest.raises(ValueError, match="no feedback to learn from"):
        tabulate([[]])
    none = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="no feedback to learn from"):
        binary_table(np.eye(3), none, none, none, np.zeros(0))
    with pytest.raises(ValueError, match="above the highest of these cuts, 4"):
        tabulate([[Rating(event_id="e", features=np.ones(1), reference=np.ones(1), level=5)]], RATING_CUTS)
    with pytest.raises(ValueError, match="not Event"):
        tabulate([[Event(event_id="e")]])


def test_a_range_of_people_is_those_people() -> None:
    model, people = population(), crowd()
    everybody = tabulate(people).evidence(model)
    part = everybody[1:]
    assert (len(everybody), len(part), len(everybody[2:1])) == (3, 2, 0)
    for there, here in zip(part, list(everybody)[1:], strict=True):
        np.testing.assert_array_equal(there.designs, here.designs)
        np.testing.assert_array_equal(there.offsets, here.offsets)
        np.testing.assert_array_equal(there.groups, here.groups)
        np.testing.assert_array_equal(there.highs, here.highs)
    np.testing.assert_array_equal(part[-1].designs, everybody[2].designs)
    with pytest.raises(ValueError, match="without steps"):
        everybody[::2]


def test_single_precision_reads_the_same_feedback() -> None:
    model, table = population(), tabulate(crowd())
    single = replace(table, features=table.features.astype(np.float32))
    for one, two in zip(table.evidence(model), single.evidence(model), strict=True):
        np.testing.assert_allclose(one.designs, two.designs, atol=1e-5)
        np.testing.assert_allclose(one.offsets, two.offsets, atol=1e-5)
    np.testing.assert_allclose(table.reward_covariance(model), single.reward_covariance(model), atol=1e-5)
    assert single.features.dtype == np.float32
