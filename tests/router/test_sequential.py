import numpy as np
import pytest

from router.sequential import FEWEST, difference, mixture_scale


def test_looking_all_the_time_errs_no_more_than_promised() -> None:
    """People of equal groups give several judgements each, in turns, and the interval is read after every tenth."""
    rng = np.random.default_rng(0)
    num_runs, num_people, num_rounds = 300, 120, 4
    num_wrong = 0
    for _ in range(num_runs):
        tastes = rng.beta(4, 2, size=(2, num_people))
        told = rng.random((num_rounds, 2, num_people)) < tastes
        seen = np.zeros((2, num_people)), np.zeros((2, num_people))
        wrong = False
        for number in range(num_rounds):
            for stop in range(10, num_people + 1, 10):
                seen[0][:, stop - 10 : stop] += told[number, :, stop - 10 : stop]
                seen[1][:, stop - 10 : stop] += 1
                there = seen[1][0] > 0
                means = seen[0][:, there] / seen[1][:, there]
                wrong = wrong or difference(means[0], means[1]).is_decided
        num_wrong += wrong
    assert num_wrong / num_runs < 0.05


def test_a_difference_is_found() -> None:
    rng = np.random.default_rng(1)
    better, worse = (rng.random(400) < 0.7).astype(float), (rng.random(400) < 0.5).astype(float)
    found = difference(better, worse)
    assert found.low > 0.0
    assert found.mean == pytest.approx(better.mean() - worse.mean())
    opposite = difference(worse, better)
    assert (opposite.low, opposite.high) == pytest.approx((-found.high, -found.low))


def test_it_is_wider_than_a_fixed_interval_but_not_by_much_where_it_is_tuned() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.random(100), rng.random(100)
    fixed = 1.96 * np.sqrt(first.var() / 100 + second.var() / 100)
    half = difference(first, second).high - difference(first, second).mean
    assert 1.2 * fixed < half < 2.0 * fixed
    assert mixture_scale(100, 0.05) > mixture_scale(1000, 0.05)


def test_few_people_decide_nothing() -> None:
    few = difference(np.ones(FEWEST - 1), np.zeros(100))
    assert not few.is_decided
    assert few.mean == 1.0
    assert not difference(np.zeros(0), np.zeros(0)).is_decided
