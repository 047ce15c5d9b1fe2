"""What one person can change."""

from __future__ import annotations

import numpy as np
import pytest

from router.basis import BasisConfig
from router.feedback import FeedbackTable
from router.population import FitConfig, fit_population, plain_layout
from router.tabulation import tabulate
from serve.errors import ConfigurationError
from serve.jobs.fit.gathering import raw_reader
from serve.jobs.fit.influence import capped, largest_move, largest_share, share_scales
from tests.serve.jobs.fit.cases import PARENT, judgements

CONFIG = FitConfig(BasisConfig(rank=1), (1,), em_iterations=6)


def table_of(counts: list[int]) -> FeedbackTable:
    reader = raw_reader(PARENT.feature_space)
    events = [judgements(person, num) for person, num in enumerate(counts)]
    return tabulate([[one for event in log for one in reader.events(event)] for log in events])


def test_nobody_holds_more_than_their_share() -> None:
    table = table_of([10, 60, 10, 10, 30])
    assert largest_share(table) == pytest.approx(0.5)
    limited = capped(table, 0.25)
    assert largest_share(limited) == pytest.approx(0.25)
    weights = np.bincount(limited.people, limited.weights)
    np.testing.assert_array_equal(weights[[0, 2, 3]], 10.0)
    np.testing.assert_array_equal(capped(table, 0.6).weights, table.weights)
    np.testing.assert_allclose(np.bincount(table.people, capped(table, 0.2).weights), 10.0)  # just enough people
    with pytest.raises(ConfigurationError, match=r"5 people cannot .* that takes 6 people, or .*--max-share"):
        capped(table, 0.19)


def test_the_bound_holds_however_much_one_person_said() -> None:
    for weights, share in (([50.0, *[1.0] * 19], 0.05), ([1e6, 1e3, 0.0, *[1.0] * 40], 0.03), ([3.0, 2.0, 1.0], 0.4)):
        left = np.array(weights) * share_scales(np.array(weights), share)
        assert left.max() / left.sum() <= share + 1e-9
        assert left[np.array(weights) == 1.0].max() == pytest.approx(1.0)  # the others keep what they said


def test_the_move_holds_for_the_removal_of_anybody() -> None:
    table = table_of([40, *[8] * 24])
    layout = plain_layout(table.features)
    whole, _ = fit_population(table, layout, CONFIG, 0)
    move = largest_move(whole, table, CONFIG, map, 0.25)
    response = np.cov(whole.features(np.asarray(table.features, np.float64)), rowvar=False)
    for person in (0, 1, 2, 9):
        others = table.subset(np.delete(np.arange(25), person))
        # The same directions, the prior fitted from its start: as if the person had never been there.
        again = FitConfig(BasisConfig(rank=0), (1,), em_iterations=12)
        bare = plain_layout(table.features, whole.basis[:-1])
        without, _ = fit_population(others, bare, again, 0)
        here, _ = fit_population(table, bare, again, 0)
        change = (without.means[0] - here.means[0])[:-1]
        size = float(np.sqrt(change @ response[:-1, :-1] @ change))
        assert size < 1.5 * move
    assert 0.0 < move < 1.0


def test_nobody_is_tried_out_where_nobody_matters() -> None:
    table = table_of([8] * 12)
    population, _ = fit_population(table, plain_layout(table.features), CONFIG, 0)
    calls: list[int] = []

    def counting(function, tasks):  # type: ignore[no-untyped-def]  # any callable of map's form
        calls.append(len(tasks))
        return map(function, tasks)

    small = largest_move(population, table, CONFIG, counting, bound=1e3)
    assert calls == [1]  # block of people
    assert small <= largest_move(population, table, CONFIG, counting, bound=1e-3)
    assert len(calls) > 2
