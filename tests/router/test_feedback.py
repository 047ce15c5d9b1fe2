from dataclasses import replace

import numpy as np
import pytest

from router.feedback import FeedbackTable, binary_table, tabulate
from router.likelihood import concatenate, encode
from router.types import Event, Rating
from tests.router.worlds import mixed_events, small_population

P = 3


def test_table_of_events_gives_the_same_evidence_as_the_events() -> None:
    people = small_population(P, 2)
    events = [mixed_events(P, 8, seed=seed) for seed in (1, 2)]
    table = tabulate(events)
    for evidence, own in zip(table.evidence(people), events, strict=True):
        wanted = concatenate([encode(people, event) for event in own])
        for name in ("designs", "offsets", "groups", "lows", "highs", "weights", "num_outcomes"):
            np.testing.assert_allclose(getattr(evidence, name), getattr(wanted, name), atol=1e-12, err_msg=name)


def test_operator_takes_rewards_to_scores() -> None:
    table = tabulate([mixed_events(P, 4)])
    rewards = np.random.default_rng(0).normal(size=len(table.features))
    np.testing.assert_allclose(table.differences() @ rewards, rewards[table.plus] - rewards[table.minus])


def test_subset_renumbers_people_and_keeps_their_rows() -> None:
    events = [mixed_events(P, 4, seed=seed) for seed in range(4)]
    table = tabulate(events, prompts=np.arange(4, dtype=np.float64)[:, None])
    part = table.subset(np.array([1, 3]))
    people = small_population(P, 1)
    whole = table.evidence(people)
    for evidence, wanted in zip(part.evidence(people), (whole[1], whole[3]), strict=True):
        np.testing.assert_array_equal(evidence.designs, wanted.designs)
    assert part.prompts is not None
    assert part.prompts.ravel().tolist() == [1.0, 3.0]


def table(**change: object) -> FeedbackTable:
    rows = binary_table(np.eye(3), np.array([1, 0]), np.array([0, 1]), np.array([2, 2]), np.zeros(2))
    return replace(rows, **change)  # type: ignore[arg-type]


def test_binary_table_sorts_by_person() -> None:
    assert table().plus.tolist() == [1, 0]
    assert table().row_people.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lows": np.zeros(1)}, "lows must have 2 numbers"),
        ({"plus": np.array([0, 3])}, "must name items 0 to 2"),
        ({"people": np.array([1, 0])}, "sort the table by person"),
        ({"prompts": np.zeros((1, 1))}, "prompts must have shape"),
    ],
)
def test_table_refuses_what_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(**change)


def test_no_feedback_and_unknown_feedback_are_refused() -> None:
    with pytest.raises(ValueError, match="no feedback"):
        tabulate([[]])
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(ValueError, match="no feedback"):
        binary_table(np.eye(2), none, none, none, np.zeros(0))
    with pytest.raises(ValueError, match="not Event"):
        tabulate([[Event(event_id="e")]])
    with pytest.raises(ValueError, match="level 9 is above"):
        tabulate([[Rating(event_id="e", features=np.ones(P), reference=np.ones(P), level=9)]])
