"""Measures of two populations on the same people, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from router.types import Array
from serve.jobs.release.comparison import Predictions, compare, predict
from tests.serve.jobs.fit.cases import PARENT, knowing
from tests.serve.jobs.fit.test_fitting import table_of


def predictions(probabilities: Array, num_each: int, plain: float = 0.5, groups: Array | None = None) -> Predictions:
    num_people = len(probabilities) // num_each
    return Predictions(
        people=np.repeat(np.arange(num_people), num_each),
        said=probabilities,
        instead=1.0 - probabilities,
        plain_said=np.full(len(probabilities), plain),
        groups=np.zeros(num_people, np.int64) if groups is None else groups.astype(np.int64),
        update_ms=1.0,
    )


def test_means_are_of_people_and_intervals_of_their_differences() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0.3, 0.7, size=400)
    found = compare(predictions(before * 1.1, 4), predictions(before, 4))
    assert (found.num_people, found.num_judgements) == (100, 400)
    assert found.log_loss.difference.mean == pytest.approx(-np.log(1.1))
    # The same factor for everybody: the difference is sure, although both levels are not.
    assert found.log_loss.difference.high - found.log_loss.difference.low < 1e-9
    assert found.log_loss.candidate.high - found.log_loss.candidate.low > 0.01
    assert found.accuracy.in_service.mean == pytest.approx((before > 0.5).mean())


def test_harm_counts_people_who_were_better_served_unknown() -> None:
    worse = np.repeat([0.4, 0.6, 0.6, 0.4], 5)
    found = compare(predictions(worse, 5), predictions(np.full(20, 0.6), 5))
    assert (found.harm.candidate.mean, found.harm.in_service.mean) == (0.5, 0.0)


def test_calibration_error_is_the_gap_between_said_and_seen() -> None:
    # Says .8 of 100 judgements of which 60 come out so: .2 too sure.
    said = np.where(np.arange(100) % 5 < 3, 0.8, 0.2)
    honest = np.where(np.arange(100) % 5 < 4, 0.8, 0.2)
    found = compare(predictions(said, 5), predictions(honest, 5))
    assert found.calibration_error.candidate.mean == pytest.approx(0.2)
    assert found.calibration_error.in_service.mean == pytest.approx(0.0, abs=1e-9)


def test_of_several_answers_the_likeliest_is_what_was_thought() -> None:
    # Four answers, .4 the likeliest, which three in ten choose: right in .3 of the cases, .1 too sure.
    is_right = np.arange(100) % 10 < 3
    said = np.where(is_right, 0.4, 0.2)
    found = Predictions(
        people=np.repeat(np.arange(10), 10),
        said=said,
        instead=np.where(is_right, 0.2, 0.4),
        plain_said=np.full(100, 0.25),
        groups=np.zeros(10, np.int64),
        update_ms=1.0,
    )
    result = compare(found, found)
    assert result.accuracy.candidate.mean == pytest.approx(0.3)
    assert result.calibration_error.candidate.mean == pytest.approx(0.1)


def test_groups_and_the_worst_tenth() -> None:
    groups = np.repeat([0, 1], [12, 8])
    probabilities = np.repeat(np.where(groups == 0, 0.8, 0.5), 2)
    probabilities[-2:] = 0.1
    found = compare(predictions(probabilities, 2, groups=groups), predictions(probabilities, 2, groups=groups))
    assert [one.candidate.mean for one in found.groups] == pytest.approx(
        [-np.log(0.8), -(7 * np.log(0.5) + np.log(0.1)) / 8]
    )
    assert found.worst_tenth.candidate.mean == pytest.approx(-(np.log(0.1) + np.log(0.5)) / 2)
    assert found.worst_tenth.difference.mean == 0.0
    few = compare(predictions(probabilities, 2, groups=np.repeat([0, 1], [18, 2])), predictions(probabilities, 2))
    assert len(few.groups) == 1


def test_a_population_that_knows_less_is_found_out() -> None:
    table = table_of(40, num_events=12)
    candidate, in_service = (
        predict(population, table.evidence(population)) for population in (PARENT.population, knowing().population)
    )
    found = compare(candidate, in_service)
    assert found.log_loss.difference.low > 0.1
    assert found.accuracy.difference.high < 0.0
    assert found.num_judgements == 40 * 6
