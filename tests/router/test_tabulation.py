"""Events into a table, one person after the other."""

from __future__ import annotations

import numpy as np
import pytest

from router.tabulation import FEWEST_MORE, Items, Tabulation, tabulate
from router.types import Comparison, Ranking, Thumb


def comparison(chosen: float, rejected: float) -> Comparison:
    return Comparison(event_id="e", chosen=np.full(2, chosen), rejected=np.full(2, rejected))


def test_an_item_judged_twice_is_kept_once() -> None:
    table = tabulate([[comparison(1.0, 2.0), comparison(2.0, 3.0)], [comparison(3.0, 1.0)]])
    np.testing.assert_array_equal(table.features, np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    np.testing.assert_array_equal(table.plus, [0, 1, 2])
    np.testing.assert_array_equal(table.minus, [1, 2, 0])


def test_rows_of_a_ranking_and_signs_of_a_thumb() -> None:
    ranking = Ranking(event_id="r", features=np.arange(6, dtype=np.float64).reshape(3, 2))
    thumb = Thumb(event_id="t", features=np.zeros(2), reference=np.ones(2), value=-1)
    table = tabulate([[ranking, thumb]])
    np.testing.assert_array_equal(table.groups, [0, 0, 1, 2])
    np.testing.assert_array_equal(table.features[table.plus], [[0, 1], [0, 1], [2, 3], [1, 1]])
    np.testing.assert_array_equal(table.features[table.minus], [[2, 3], [4, 5], [4, 5], [0, 0]])
    np.testing.assert_array_equal(table.thresholds, [0, 0, 0, 1])
    np.testing.assert_array_equal(table.num_outcomes, [3, 2, 2])


def test_people_who_said_nothing_count_too_and_precision_is_chosen() -> None:
    tabulation = Tabulation(dtype=np.float32)
    for events in ([], [comparison(0.1, 0.2)], []):
        tabulation.add(events)
    table = tabulation.table()
    assert table.num_people == 3
    assert table.features.dtype == np.float32
    np.testing.assert_array_equal(table.people, [1])
    assert [person.num_groups for person in table.evidence_of(table.features, np.zeros(2))] == [0, 1, 0]


def test_room_grows_with_the_items() -> None:
    items = Items(np.float32)
    rows = np.arange(2 * (FEWEST_MORE + 5), dtype=np.float64).reshape(-1, 2)
    assert [items.number(row) for row in rows] == list(range(FEWEST_MORE + 5))
    assert items.number(rows[FEWEST_MORE]) == FEWEST_MORE
    with pytest.raises(ValueError, match="must have shape \\(2,\\)"):
        items.number(np.zeros(3))
    np.testing.assert_array_equal(items.take(), rows)
