from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.candidates import PlanConfig, draw_tastes, pick_instruction, plan_candidates
from router.mixture import Mixture
from router.routing import RoutingConfig, Wishes, plain_space, route
from router.types import Array, Route
from tests.router.cases import make_population, make_posterior, narrowed

POPULATION = make_population(D=6)
SPACE = replace(plain_space(POPULATION), adapters=("x", "y", "z"))
TARGET = np.array([2.0, -1.0, 0.5, 1.0, 0.0, 0.3])


def known(share: float = 0.6, wishes: Wishes | None = None, gate: float = 0.5) -> Route:
    return route(narrowed(POPULATION, TARGET, share), SPACE, RoutingConfig(gate=gate), wishes or Wishes())


def kinds(found: Route, num_arms: int, explore: float = 0.0, instruction: str | None = None) -> list[str]:
    config = PlanConfig(num_arms, explore=explore)
    return [a.kind for a in plan_candidates(found, SPACE, config, np.random.default_rng(0), instruction).arms]


def test_somebody_unknown_gets_only_the_base_whatever_is_explored() -> None:
    zero = route(None, SPACE, RoutingConfig(), Wishes())
    assert kinds(zero, 4, explore=1.0, instruction="Be brief.") == ["base"] * 4


def test_one_arm_is_the_persons_own() -> None:
    found = known()
    (arm,) = plan_candidates(found, SPACE, PlanConfig(1), np.random.default_rng(0)).arms
    assert arm.kind == "steered"
    np.testing.assert_array_equal(arm.steering_coefficients, found.steering_coefficients)
    assert arm.dose == found.dose
    held = known(0.02, gate=0.99)
    assert held.steering == "gate"
    assert kinds(held, 1) == ["base"]


def test_a_closed_gate_leaves_plain_samples_to_choose_from() -> None:
    assert kinds(known(0.02, gate=0.99), 4) == ["base"] * 4


def test_the_order_of_arms() -> None:
    leading = replace(known(), adapter="x")
    assert kinds(leading, 2) == ["base", "steered"]
    assert kinds(leading, 5, instruction="Be brief.") == ["base", "steered", "adapter", "instruction", "steered"]
    assert kinds(known(wishes=Wishes(0.0, {"a0": 1.0})), 3) == ["base", "steered", "base"]  # explicit has no neighbours


@given(st.integers(1, 32), st.floats(0, 1), st.floats(0, 0.95), st.floats(0, 3), st.integers(0, 99))
def test_what_holds_for_every_plan(num: int, explore: float, cosine: float, spread: float, seed: int) -> None:
    found = known(0.3 + 0.006 * seed)
    config = PlanConfig(num, spread, cosine, explore)
    plan = plan_candidates(found, SPACE, config, np.random.default_rng(seed))
    again = plan_candidates(found, SPACE, config, np.random.default_rng(seed))
    assert plan.num_arms == num
    assert num == 1 or plan.arms[0].kind == "base"
    for arm, twin in zip(plan.arms, again.arms, strict=True):
        assert arm.dose <= SPACE.max_dose + 1e-12
        np.testing.assert_array_equal(arm.steering_coefficients, twin.steering_coefficients)


@given(st.integers(0, 200), st.floats(0.05, 0.9))
def test_neighbours_stay_in_the_cone_at_the_persons_dose(seed: int, min_cosine: float) -> None:
    found = known(0.3)
    plan = plan_candidates(found, SPACE, PlanConfig(8, 3.0, min_cosine), np.random.default_rng(seed))
    own = found.steering_coefficients
    steered = [arm for arm in plan.arms if arm.kind == "steered"]
    assert len(steered) == 6 + (found.adapter is None)
    for arm in steered:
        size = np.linalg.norm(arm.steering_coefficients)
        assert size == pytest.approx(np.linalg.norm(own))
        assert arm.steering_coefficients @ own / (size * np.linalg.norm(own)) >= min_cosine - 1e-9
        assert arm.dose == pytest.approx(found.dose)


def test_neighbours_differ_and_without_spread_do_not() -> None:
    arms = plan_candidates(known(), SPACE, PlanConfig(6), np.random.default_rng(0)).arms[1:]
    assert len({arm.steering_coefficients.tobytes() for arm in arms}) == 5
    same = plan_candidates(known(), SPACE, PlanConfig(6, spread=0.0), np.random.default_rng(0)).arms[1:]
    for arm in same:
        np.testing.assert_allclose(arm.steering_coefficients, same[0].steering_coefficients, atol=1e-12)


def test_a_neighbour_on_the_axis_stays_there_without_a_cone() -> None:
    single = make_population(K=1, D=1)
    space = plain_space(single)
    found = route(narrowed(single, np.array([2.0]), 0.5), space, RoutingConfig(gate=0.5), Wishes())
    plan = plan_candidates(found, space, PlanConfig(12, 5.0, 0.0), np.random.default_rng(0))
    for arm in plan.arms[1:]:
        np.testing.assert_allclose(arm.steering_coefficients, found.steering_coefficients)


def test_exploration_draws_from_the_posterior_even_behind_a_closed_gate() -> None:
    assert kinds(known(0.05, gate=0.99), 5, explore=0.5) == ["base", "steered", "steered", "base", "base"]
    assert kinds(known(), 1, explore=1.0) == ["steered"]
    (arm,) = plan_candidates(known(), SPACE, PlanConfig(1, explore=1.0), np.random.default_rng(0)).arms
    assert not np.allclose(arm.steering_coefficients, known().steering_coefficients)
    shut = replace(SPACE, reach=np.zeros((2, 6)))
    closed = route(narrowed(POPULATION, TARGET, 0.5), shut, RoutingConfig(), Wishes())
    plan = plan_candidates(closed, shut, PlanConfig(3, explore=1.0), np.random.default_rng(0))
    assert [a.kind for a in plan.arms] == ["base"] * 3  # no direction may steer


def _pool(seed: int, num: int) -> Array:
    return draw_tastes(known().taste, num, 1.0, np.random.default_rng(seed))


def test_each_draw_is_from_the_posterior() -> None:
    taste = make_posterior(POPULATION, POPULATION.means, 0.5 * POPULATION.covariances, np.array([0.5, 0.3, 0.2]))
    mixture = Mixture(taste.responsibilities, taste.means, taste.covariances)
    draws = np.stack([draw_tastes(mixture, 5, 1.0, np.random.default_rng(s)) for s in range(6000)])  # (S, 5, D)
    for j in range(5):
        np.testing.assert_allclose(draws[:, j].mean(axis=0), mixture.mean, atol=0.06)
        np.testing.assert_allclose(np.cov(draws[:, j].T), mixture.covariance, atol=0.15)


def test_draws_are_negatively_correlated_so_their_mean_is_nearer_than_chance() -> None:
    taste = known().taste
    means = np.array([_pool(seed, 4).mean(axis=0) for seed in range(1000)])
    independent = np.trace(taste.covariance) / 4
    assert np.mean(np.sum((means - taste.mean) ** 2, axis=1)) < 0.6 * independent


def test_more_draws_than_directions() -> None:
    assert _pool(0, 31).shape == (31, 6)
    assert _pool(0, 0).shape == (0, 6)


def test_the_instruction_with_the_surest_gain() -> None:
    judge = Mixture(np.ones(1), np.array([[1.0, 0.0]]), np.diag([0.1, 4.0])[None])
    effects = np.array([[0.5, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert pick_instruction(judge, effects, 0.8) == 1
    assert pick_instruction(judge, np.array([[0.1, 3.0]]), 0.8) is None  # a gamble
    assert pick_instruction(judge, np.zeros((0, 2)), 0.8) is None
    with pytest.raises(ValueError, match="effects"):
        pick_instruction(judge, np.zeros((1, 3)), 0.8)


@pytest.mark.parametrize(
    "change", [{"num_arms": 0}, {"num_arms": 33}, {"spread": -1.0}, {"min_cosine": 1.0}, {"explore": 1.5}]
)
def test_nonsense_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        PlanConfig(**change)  # type: ignore[arg-type]
