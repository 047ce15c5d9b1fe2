import numpy as np

from router.held_out import GroupReport, choose_tempering, report_groups
from tests.router.worlds import simulate, small_population


def test_repeated_evidence_is_tempered_and_independent_evidence_is_not() -> None:
    world = simulate(0, [1.0], flip_rate=0.0, num_people=60, num_events=40)
    people = small_population(6, 1, seed=1)
    independent = world.table.evidence(people)
    assert choose_tempering(people, independent, (1.0, 0.3)) == 1.0
    assert choose_tempering(people, [], (0.7, 0.3)) == 0.7


def test_groups_are_reported_and_the_worst_is_named() -> None:
    world = simulate(1, [0.5, 0.5], flip_rate=0.1, num_people=40)
    people = small_population(6, 2)
    report = report_groups(people, world.table.evidence(people))
    assert report.shares.sum() == 1.0
    assert report.accuracy[report.worst] == np.nanmin(report.accuracy)
    empty = report_groups(people, [])
    assert np.isnan(empty.accuracy).all()
    assert empty.worst == 0
    assert GroupReport(np.ones(2), np.array([np.nan, 0.5]), np.ones(2)).worst == 1
