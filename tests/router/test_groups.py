import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from router.groups import Aggregate, Floats, aggregate_gains, aggregate_probabilities

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 6))
GAINS = SHAPES.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-8, 8)))
PROBABILITIES = SHAPES.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(0, 1)))


def _product(gains: Floats) -> Floats:
    return np.asarray(np.prod(1 / (1 + np.exp(-gains)), axis=0))


def test_the_three_rules_disagree_where_they_should() -> None:
    gains = np.array([[9.0, 2.5, 0.8], [-2.0, 0.2, 0.7]])  # (P, N)
    winners = {rule: int(np.argmax(aggregate_gains(gains, rule))) for rule in Aggregate}
    assert winners == {Aggregate.MEAN: 0, Aggregate.MAX_MIN: 2, Aggregate.NASH: 1}


@given(GAINS)
def test_the_nash_winner_has_the_largest_product_and_never_less_than_the_base(gains: Floats) -> None:
    gains = np.concatenate([np.zeros((len(gains), 1)), gains], axis=1)  # the base is a candidate with gain 0
    winner = int(np.argmax(aggregate_gains(gains, Aggregate.NASH)))
    products = _product(gains)
    assert products[winner] >= products.max() * (1 - 1e-9)
    assert products[winner] >= 0.5 ** len(gains) * (1 - 1e-9)


@given(GAINS)
def test_max_min_never_leaves_anyone_below_base_when_the_base_is_there(gains: Floats) -> None:
    gains = np.concatenate([np.zeros((len(gains), 1)), gains], axis=1)
    assert gains[:, int(np.argmax(aggregate_gains(gains, Aggregate.MAX_MIN)))].min() >= 0.0


@given(GAINS, st.sampled_from(Aggregate))
def test_rules_are_monotone_and_order_free(gains: Floats, rule: Aggregate) -> None:
    before = aggregate_gains(gains, rule)
    np.testing.assert_allclose(aggregate_gains(gains[::-1], rule), before, atol=1e-12)
    raised = gains.copy()
    raised[0] += 1.0
    assert (aggregate_gains(raised, rule) >= before - 1e-12).all()


@given(arrays(np.float64, (1, 4), elements=st.floats(-8, 8)), st.sampled_from(Aggregate))
def test_one_person_is_her_own_group(gains: Floats, rule: Aggregate) -> None:
    combined = aggregate_gains(gains, rule)
    assert gains[0, int(np.argmax(combined))] == pytest.approx(gains[0].max(), abs=1e-9)


@given(PROBABILITIES)
def test_group_probabilities_are_ordered_min_geometric_mean(probabilities: Floats) -> None:
    least = aggregate_probabilities(probabilities, Aggregate.MAX_MIN)
    geometric = aggregate_probabilities(probabilities, Aggregate.NASH)
    mean = aggregate_probabilities(probabilities, Aggregate.MEAN)
    assert (least <= geometric + 1e-9).all()
    assert (geometric <= mean + 1e-9).all()


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="people"):
        aggregate_gains(np.zeros(3), Aggregate.MEAN)
    with pytest.raises(ValueError, match="people"):
        aggregate_gains(np.zeros((0, 3)), Aggregate.MEAN)
    with pytest.raises(ValueError, match="finite"):
        aggregate_gains(np.array([[np.inf]]), Aggregate.MEAN)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        aggregate_probabilities(np.array([[1.5]]), Aggregate.NASH)
