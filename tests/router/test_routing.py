from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.mixture import Mixture
from router.routing import RoutingConfig, SteeringSpace, Wishes, judge_of, measured_space, narrowing, plain_space, route
from router.types import Population
from tests.router.cases import make_population, make_posterior, narrowed

POPULATION = make_population()
SPACE = plain_space(POPULATION)
CONFIG = RoutingConfig()
TARGET = np.array([2.0, -1.0, 0.5, 1.0])
SEEDS = st.integers(0, 10_000)


def test_no_feedback_is_exactly_the_zero_route() -> None:
    nothing_seen = narrowed(POPULATION, TARGET, 0.0, num_events=0)
    for posterior in (None, nothing_seen):
        zero = route(posterior, SPACE, CONFIG, Wishes())
        assert zero.is_zero
        assert not zero.is_steered
        assert zero.steering_coefficients.tobytes() == np.zeros(4).tobytes()  # bit for bit, the sign of zero too
        assert (zero.dose, zero.certainty, zero.adapter, zero.steering) == (0.0, 0.0, None, "no_feedback")
        np.testing.assert_array_equal(zero.mixture_weights, POPULATION.mixture_weights)


def test_strength_zero_is_as_if_nothing_were_known() -> None:
    off = route(narrowed(POPULATION, TARGET, 0.9), SPACE, CONFIG, Wishes(strength=0.0))
    assert off.is_zero
    assert off.steering == "off"
    assert not off.steering_coefficients.any()
    np.testing.assert_allclose(off.judge.mean, POPULATION.base_weights + SPACE.prior.mean)
    assert not off.judge.covariances.any()


def test_a_known_person_is_steered_along_their_taste() -> None:
    found = route(narrowed(POPULATION, TARGET, 0.8), SPACE, CONFIG, Wishes())
    assert found.steering == "on"
    wanted = found.taste.mean
    cosine = found.steering_coefficients @ wanted / np.linalg.norm(wanted)
    assert cosine == pytest.approx(1.0)  # length 1: this person has earned the full dose
    assert found.dose == pytest.approx(SPACE.max_dose)
    assert found.certainty > 0.7
    assert found.prob_gain > 0.95
    np.testing.assert_allclose(found.judge.mean, found.taste.mean)


def test_dose_and_certainty_grow_with_what_is_known() -> None:
    routes = [
        route(narrowed(POPULATION, TARGET, share), SPACE, RoutingConfig(gate=0.5), Wishes())
        for share in (0.05, 0.1, 0.2, 0.4, 0.8, 0.99)
    ]
    doses, certainties = [r.dose for r in routes], [r.certainty for r in routes]
    assert doses == sorted(doses)
    assert 0.0 < doses[0] < 0.1 * SPACE.max_dose
    assert doses[-1] == pytest.approx(SPACE.max_dose)
    assert certainties == sorted(certainties)
    assert certainties[-1] > 0.98


def test_the_gate_keeps_a_doubtful_taste_from_steering() -> None:
    doubtful = narrowed(POPULATION, TARGET, 0.02)
    held = route(doubtful, SPACE, CONFIG, Wishes())
    assert held.steering == "gate"
    assert held.prob_gain < CONFIG.gate
    assert not held.is_steered
    assert not held.is_zero  # the person is known a little, so best-of-N may still choose for her
    assert route(doubtful, SPACE, RoutingConfig(gate=0.5), Wishes()).steering == "on"


def test_what_everybody_likes_is_steered_along_as_well() -> None:
    """Also for somebody who likes it less than others: less of a good thing is still a good thing."""
    people = replace(POPULATION, base_weights=np.array([5.0, 0.0, 0.0, 0.0]))
    lukewarm = narrowed(people, np.array([-1.0, 0.0, 0.0, 0.0]), 0.9)
    towards, away = (route(lukewarm, plain_space(one), CONFIG, Wishes()) for one in (people, POPULATION))
    np.testing.assert_allclose(towards.judge.mean, towards.taste.mean + people.base_weights)
    assert towards.steering_coefficients @ towards.judge.mean == pytest.approx(np.linalg.norm(towards.judge.mean))
    assert towards.steering_coefficients[0] > 0.9
    assert away.steering_coefficients[0] < 0.0


def test_the_surer_a_common_taste_the_sooner_it_steers() -> None:
    """After one event that says nothing, nearly all that is known is what everybody likes."""
    doses = []
    for size in (0.1, 0.5, 1.0, 4.0):
        people = replace(POPULATION, base_weights=np.array([size, 0.0, 0.0, 0.0]))
        silent = narrowed(people, TARGET, 0.0, num_events=1)
        doses.append(route(silent, plain_space(people), CONFIG, Wishes()).dose)
    assert doses[0] == 0.0  # the gate
    assert doses[-1] == pytest.approx(SPACE.max_dose)
    assert doses == sorted(doses)


def test_somebody_just_like_the_pool_is_not_steered() -> None:
    average = make_posterior(
        POPULATION, POPULATION.means, 0.5 * POPULATION.covariances, POPULATION.mixture_weights.copy()
    )
    found = route(average, replace(SPACE, reach=np.zeros((2, 4))), RoutingConfig(gate=0.5), Wishes())
    assert (found.steering, found.dose) == ("gate", 0.0)


@given(SEEDS, st.floats(0.0, 0.99), st.floats(0.0, 1.0), st.floats(-3, 3), st.floats(0.5, 1.0))
def test_what_holds_for_every_route(seed: int, share: float, strength: float, weight: float, gate: float) -> None:
    rng = np.random.default_rng(seed)
    posterior = make_posterior(
        POPULATION,
        rng.normal(size=(3, 4)),
        (1.0 - share) * POPULATION.covariances,
        rng.dirichlet(np.ones(3)),
    )
    found = route(posterior, SPACE, RoutingConfig(gate=gate), Wishes(strength, {"a0": weight}))
    assert found.mixture_weights.min() >= 0.0
    assert found.mixture_weights.sum() == pytest.approx(1.0)
    assert 0.0 <= found.dose <= SPACE.max_dose
    assert found.dose == pytest.approx(SPACE.max_dose * SPACE.length(found.steering_coefficients), abs=1e-9)
    assert 0.0 <= found.certainty <= 1.0


@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_strength_scales_the_dose_even_of_a_well_known_person(a: float, b: float) -> None:
    known = narrowed(POPULATION, TARGET, 0.9)
    low, high = (route(known, SPACE, CONFIG, Wishes(strength)) for strength in sorted((a, b)))
    assert low.dose <= high.dose + 1e-12
    assert low.dose == pytest.approx(min(a, b) * SPACE.max_dose)


def test_explicit_weights_add_to_what_is_inferred() -> None:
    known = narrowed(POPULATION, TARGET, 0.9)
    inferred = route(known, SPACE, CONFIG, Wishes(strength=0.3))
    both = route(known, SPACE, CONFIG, Wishes(0.3, {"a2": -0.4}))
    added = both.steering_coefficients - inferred.steering_coefficients
    np.testing.assert_allclose(added, [0.0, 0.0, -0.4, 0.0], atol=1e-12)
    shift = both.judge.mean - inferred.judge.mean
    np.testing.assert_allclose(shift, [0.0, 0.0, -0.4 * SPACE.logits_per_weight[2], 0.0], atol=1e-12)


def test_explicit_weights_work_for_somebody_unknown() -> None:
    asked = route(None, SPACE, CONFIG, Wishes(weights={"a0": 0.5}))
    assert not asked.is_zero
    assert asked.steering == "explicit"
    np.testing.assert_array_equal(asked.steering_coefficients, [0.5, 0.0, 0.0, 0.0])
    assert asked.dose == 0.5 * SPACE.max_dose
    far = route(None, SPACE, CONFIG, Wishes(weights={"a0": -30.0}))
    np.testing.assert_array_equal(far.steering_coefficients, [-1.0, 0.0, 0.0, 0.0])
    assert far.dose == SPACE.max_dose
    assert route(None, SPACE, CONFIG, Wishes(weights={"a0": 0.0})).is_zero


def test_one_unit_of_explicit_weight_judges_like_a_typical_taste() -> None:
    spread = np.sqrt(np.trace(SPACE.prior.covariance))  # of a person's reward over texts with Cov(φ) = I
    asked = route(None, SPACE, CONFIG, Wishes(weights={"a0": 1.0}))
    assert asked.judge.mean[0] - SPACE.prior.mean[0] == pytest.approx(spread)


def test_the_space_measures_dose_and_keeps_directions_out() -> None:
    metric = np.diag([4.0, 1.0, 1.0, 1.0])
    space = replace(SPACE, dose_metric=metric, reach=np.array([[1.0, 0.0, 1.0, 1.0]] * 2), max_dose=0.3)
    found = route(narrowed(POPULATION, TARGET, 0.9), space, CONFIG, Wishes())
    assert found.steering_coefficients[1] == 0.0
    assert found.steering_coefficients @ metric @ found.steering_coefficients == pytest.approx(1.0)
    assert found.dose == pytest.approx(0.3)
    asked = route(None, space, CONFIG, Wishes(weights={"a0": 1.0}))
    assert asked.steering_coefficients[0] == 0.5  # this direction is twice as long
    shut = route(None, replace(space, reach=np.zeros((2, 4))), CONFIG, Wishes(weights={"a0": 1.0}))
    assert shut.dose == 0.0
    assert shut.judge.mean[0] > SPACE.prior.mean[0]  # it may still judge


def test_a_direction_goes_no_farther_than_it_may() -> None:
    metric = np.array([[4.0, -1.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
    space = replace(SPACE, dose_metric=metric, reach=np.array([[0.5, 1.0, 0.0, 1.0], [0.25, 1.0, 1.0, 1.0]]))
    for weights, expected in (
        ({"a0": 1.0}, [0.125, 0.0, 0.0, 0.0]),  # a quarter of the way; this direction is twice as long
        ({"a0": -1.0}, [-0.25, 0.0, 0.0, 0.0]),
        ({"a2": -1.0}, [0.0, 0.0, 0.0, 0.0]),  # along it only
        ({"a2": 1.0}, [0.0, 0.0, 1.0, 0.0]),
        ({"a0": 0.1, "a2": 0.6}, [0.05, 0.0, 0.6, 0.0]),
    ):
        found = route(None, space, CONFIG, Wishes(weights=weights))
        np.testing.assert_allclose(found.steering_coefficients, expected, atol=1e-12)
        assert found.dose == pytest.approx(space.max_dose * space.length(np.array(expected)))
    # Taking from one direction can lengthen the whole, where they point against each other.
    coefficients, dose = space.limited(np.array([1.0, 4.0, 0.0, 0.0]))
    assert space.length(coefficients) == pytest.approx(1.0)
    assert dose == pytest.approx(space.max_dose)
    with pytest.raises(ValueError, match="reach must be between 0 and 1"):
        replace(SPACE, reach=np.full((2, 4), 1.5))


def _responsible(weights: list[float], names: tuple[str | None, ...] = ("x", "y", None)) -> str | None:
    posterior = make_posterior(POPULATION, POPULATION.means + TARGET, 0.05 * POPULATION.covariances, np.array(weights))
    return route(posterior, replace(SPACE, adapters=names), CONFIG, Wishes()).adapter


def test_the_adapter_is_that_of_a_clear_leader() -> None:
    assert _responsible([0.7, 0.2, 0.1]) == "x"
    assert _responsible([0.2, 0.7, 0.1]) == "y"
    assert _responsible([0.55, 0.44, 0.01]) is None  # no margin
    assert _responsible([0.45, 0.2, 0.35]) is None  # no majority
    assert _responsible([0.1, 0.1, 0.8]) is None  # that prototype has none


def test_a_single_prototype_always_leads() -> None:
    people = make_population(K=1)
    space = replace(plain_space(people), adapters=("only",))
    assert route(narrowed(people, TARGET, 0.9), space, CONFIG, Wishes()).adapter == "only"
    assert route(None, space, CONFIG, Wishes()).adapter is None


def _gated() -> Population:
    return replace(POPULATION, gating_weights=np.array([[4.0, 0.0], [0.0, 0.0], [-4.0, 0.0]]))


def test_the_prompt_shifts_the_prototypes() -> None:
    space = plain_space(_gated())
    posterior = make_posterior(_gated(), POPULATION.means, 0.5 * POPULATION.covariances, np.array([0.2, 0.3, 0.5]))
    one, other = (route(posterior, space, CONFIG, Wishes(), np.array([x])) for x in (1.0, -1.0))
    np.testing.assert_allclose(one.mixture_weights, np.array([0.2, 0.3, 0.5]) * np.exp([4.0, 0.0, -4.0]) / 11.229, 1e-3)
    assert other.mixture_weights[2] > 0.95
    neutral = route(posterior, space, CONFIG, Wishes(), np.array([0.0]))
    np.testing.assert_allclose(neutral.mixture_weights, [0.2, 0.3, 0.5])
    unknown = route(None, space, CONFIG, Wishes(), np.array([1.0]))
    assert unknown.is_zero
    assert unknown.mixture_weights[0] > 0.95
    with pytest.raises(ValueError, match="prompt_features"):
        route(posterior, space, CONFIG, Wishes(), np.zeros(2))


def test_a_population_without_gating_ignores_the_prompt() -> None:
    posterior = narrowed(POPULATION, TARGET, 0.5)
    with_prompt = route(posterior, SPACE, CONFIG, Wishes(), np.ones(7))
    np.testing.assert_array_equal(
        with_prompt.steering_coefficients, route(posterior, SPACE, CONFIG, Wishes()).steering_coefficients
    )


def test_a_steered_shift_gains_for_those_whose_taste_it_follows() -> None:
    """Over people drawn from the prior and observed with noise, gated steering harms few; ungated harms more."""
    rng = np.random.default_rng(0)
    people = make_population(1, K=2, D=6)
    space = plain_space(people)
    gains: dict[float, list[float]] = {0.5: [], 0.8: []}
    for _ in range(400):
        k = rng.integers(2)
        w = rng.multivariate_normal(people.means[k], people.covariances[k])
        noise = 4.0 * np.eye(6)  # one noisy look at the taste
        seen = rng.multivariate_normal(w, noise)
        kalman = [c @ np.linalg.inv(c + noise) for c in people.covariances]
        means = np.stack([m + g @ (seen - m) for m, g in zip(people.means, kalman, strict=True)])
        covariances = np.stack([c - g @ c for c, g in zip(people.covariances, kalman, strict=True)])
        density = np.array(
            [
                np.exp(-0.5 * (seen - m) @ np.linalg.solve(c + noise, seen - m)) / np.sqrt(np.linalg.det(c + noise))
                for m, c in zip(people.means, people.covariances, strict=True)
            ]
        )
        posterior = make_posterior(
            people, means, 0.5 * (covariances + covariances.transpose(0, 2, 1)), density / density.sum()
        )
        for gate, collected in gains.items():
            found = route(posterior, space, RoutingConfig(gate=gate), Wishes())
            collected.append(float(w @ found.steering_coefficients))
    harmed = {gate: np.mean(np.array(values) < 0.0) for gate, values in gains.items()}
    assert harmed[0.8] <= 0.6 * harmed[0.5]
    assert np.mean(gains[0.8]) > 0.8 * np.mean(gains[0.5])


def test_judges_outside_a_request() -> None:
    people = replace(POPULATION, base_weights=np.ones(4))
    np.testing.assert_allclose(judge_of(people, None).mean, 1.0 + SPACE.prior.mean)
    known = narrowed(people, TARGET, 0.9)
    np.testing.assert_allclose(judge_of(people, known).mean, 1.0 + known.mean)


def test_narrowing_is_a_share() -> None:
    prior = Mixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    taste = Mixture(np.ones(1), np.zeros((1, 2)), np.diag([0.25, 4.0])[None])
    assert narrowing(taste, prior, np.array([1.0, 0.0])) == pytest.approx(0.75)
    assert narrowing(taste, prior, np.array([0.0, 1.0])) == 0.0  # wider than before counts as not known
    assert narrowing(taste, prior, np.zeros(2)) == 0.0
    far = Mixture(np.ones(1), np.array([[0.0, 6.0]]), np.diag([0.25, 4.0])[None])
    assert narrowing(far, prior, np.array([0.0, 1.0])) == pytest.approx(0.9)  # wide, but far on one side


def test_nonsense_is_refused() -> None:
    known = narrowed(POPULATION, TARGET, 0.5)
    with pytest.raises(ValueError, match="rebuild the posterior"):
        route(replace(known, population_version="old"), SPACE, CONFIG, Wishes())
    for name in ("a1", "", "formal"):  # a1 exists as a row but has no name
        with pytest.raises(ValueError, match="attributes: a0, a2"):
            route(known, SPACE, CONFIG, Wishes(weights={name: 1.0}))
    for change in ({"saturation": 0.0}, {"gate": 0.4}, {"adapter_margin": 2.0}):
        with pytest.raises(ValueError, match=r"must|gate|shares"):
            RoutingConfig(**change)
    with pytest.raises(ValueError, match="strength"):
        Wishes(strength=1.1)
    with pytest.raises(ValueError, match="finite"):
        Wishes(weights={"a0": float("nan")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dose_metric": np.eye(3)}, "dose_metric"),
        ({"response": np.zeros((4, 4))}, "positive on the diagonal"),
        ({"max_dose": -0.1}, "max_dose"),
        ({"adapters": ("x",)}, "adapters"),
    ],
)
def test_spaces_check_themselves(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SPACE, **change)  # type: ignore[arg-type]


def test_a_space_can_be_measured() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 4))
    features = rng.normal(size=(5000, 4)) @ mixing.T
    directions = rng.normal(size=(9, 4))
    space = measured_space(POPULATION, features, directions, ("x", None, None), 0.1)
    np.testing.assert_allclose(space.response, mixing @ mixing.T, atol=0.3)
    coefficients = np.array([1.0, -2.0, 0.0, 1.0])
    assert space.length(coefficients) == pytest.approx(np.linalg.norm(directions @ coefficients))
    found = route(narrowed(POPULATION, TARGET, 0.9), space, CONFIG, Wishes())
    rescaled = measured_space(POPULATION, features, 1000.0 * directions, ("x", None, None), 0.1)
    again = route(narrowed(POPULATION, TARGET, 0.9), rescaled, CONFIG, Wishes())
    assert again.dose == pytest.approx(found.dose)  # the scale of C means nothing
    with pytest.raises(ValueError, match="features"):
        measured_space(POPULATION, features[:1], directions, (None,) * 3, 0.1)
    with pytest.raises(ValueError, match="directions"):
        measured_space(POPULATION, features, directions.T, (None,) * 3, 0.1)


def test_a_space_is_made_once_and_reused() -> None:
    assert isinstance(SPACE, SteeringSpace)
    assert SPACE.prior is SPACE.prior
