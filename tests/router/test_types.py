import io
from dataclasses import replace

import numpy as np
import pytest

from router.mixture import Mixture
from router.types import (
    Arm,
    CandidatePlan,
    Choice,
    Comparison,
    Evidence,
    Population,
    Posterior,
    Ranking,
    Rating,
    Route,
    Thumb,
    as_array,
)

K, D, P = 2, 3, 4


def population() -> Population:
    return Population(
        basis=np.arange(12, dtype=np.float64).reshape(D, P),
        center=np.ones(P),
        scale=np.full(P, 2.0),
        mixture_weights=np.array([0.25, 0.75]),
        means=np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
        covariances=np.stack([np.eye(D), 2.0 * np.eye(D)]),
        base_weights=np.zeros(D),
        gating_weights=np.zeros((K, P + 1)),
        attribute_names=("concise", "", "warm"),
        drift_half_life_s=60.0,
        version="7",
    )


def evidence() -> Evidence:
    return Evidence(
        designs=np.ones((3, D + 1)),
        offsets=np.zeros(3),
        groups=np.array([0, 1, 1]),
        lows=np.array([-np.inf, 0.0]),
        highs=np.array([0.5, np.inf]),
        weights=np.ones(2),
        num_outcomes=np.array([5.0, 3.0]),
        times_s=np.zeros(2),
        event_ids=("a", "b"),
        targets=("", "completion"),
    )


def posterior() -> Posterior:
    precision = np.stack([np.diag([1.0, 2.0, 4.0, 8.0]), np.eye(D + 1)])
    return Posterior(
        precision=precision,
        shift=np.ones((K, D + 1)),
        log_evidence=np.log([0.5, 0.25]),
        log_mixture_weights=np.log([0.5, 0.5]),
        evidence=evidence(),
        folded_precision=np.zeros((K, D + 1, D + 1)),
        folded_shift=np.zeros((K, D + 1)),
        folded_log_evidence=np.zeros(K),
        folded_time_s=1.5,
        num_events=2,
        flip_rate=0.1,
        population_version="7",
    )


def test_arrays_are_checked_copied_and_read_only() -> None:
    source = np.zeros(2)
    array = as_array("x", source, (None,))
    source[0] = 5.0
    assert array[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0
    with pytest.raises(ValueError, match=r"x must have shape \(any, 2\), but has \(2,\)"):
        as_array("x", source, (None, 2))
    with pytest.raises(ValueError, match="finite"):
        as_array("x", [np.nan], (1,))


def test_population_maps_raw_features_to_reward_features() -> None:
    people = population()
    assert (people.num_features, people.num_prototypes) == (D, K)
    assert people.features(np.array([1.0, 1.0, 3.0, 1.0])).tolist() == [2.0, 6.0, 10.0]
    with pytest.raises(ValueError, match="must end in 4 numbers"):
        people.features(np.zeros(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"center": np.ones(3)}, "center must have shape"),
        ({"mixture_weights": np.array([0.5, 0.4])}, "sum to 1"),
        ({"mixture_weights": np.array([1.5, -0.5])}, "at least 0"),
        ({"scale": np.array([1.0, 1.0, 1.0, 0.0])}, "scale must be positive"),
        ({"covariances": np.stack([np.eye(D), np.triu(np.ones((D, D)))])}, "symmetric"),
        ({"covariances": np.stack([np.eye(D), np.zeros((D, D))])}, "positive definite"),
        ({"gating_weights": np.zeros((3, 5))}, "gating_weights must have shape"),
        ({"flip_rate": 0.5}, "flip_rate"),
        ({"threshold_variances": np.array([0.0, 1.0])}, "positive definite"),
        ({"rating_cuts": np.array([0.0, 0.0])}, "ascend"),
        ({"tempering": 0.0}, "tempering"),
        ({"attribute_names": ("one",)}, "one name"),
        ({"drift_half_life_s": 0.0}, "drift_half_life_s"),
    ],
)
def test_population_refuses_what_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(population(), **change)  # type: ignore[arg-type]


def test_events_check_their_shapes() -> None:
    one, two = np.ones(D), np.ones(2)
    assert Comparison(event_id="e", chosen=one, rejected=one).weight == 1.0
    with pytest.raises(ValueError, match="rejected must have shape"):
        Comparison(event_id="e", chosen=one, rejected=two)
    with pytest.raises(ValueError, match="event_id"):
        Comparison(event_id="", chosen=one, rejected=one)
    with pytest.raises(ValueError, match="weight must be positive"):
        Comparison(event_id="e", chosen=one, rejected=one, weight=0.0)
    with pytest.raises(ValueError, match="time_s"):
        Comparison(event_id="e", chosen=one, rejected=one, time_s=np.inf)
    with pytest.raises(ValueError, match="at least one rejected"):
        Choice(event_id="e", chosen=one, rejected=np.ones((0, D)))
    with pytest.raises(ValueError, match="at least two"):
        Ranking(event_id="e", features=np.ones((1, D)))
    with pytest.raises(ValueError, match="1 \\(up\\) or -1 \\(down\\)"):
        Thumb(event_id="e", features=one, reference=one, value=0)
    with pytest.raises(ValueError, match="counts from 0"):
        Rating(event_id="e", features=one, reference=one, level=-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": np.array([0, 0, 2])}, "without gaps"),
        ({"groups": np.array([0, 0, 0])}, "without gaps"),
        ({"lows": np.array([0.0, np.nan])}, "lows must hold"),
        ({"highs": np.array([1.0])}, "highs must hold"),
        ({"lows": np.array([0.5, 0.0])}, "below its high"),
        ({"targets": ("",)}, "must name each"),
    ],
)
def test_evidence_refuses_what_cannot_be(change: dict[str, object], message: str) -> None:
    assert evidence().num_groups == 2
    assert evidence().has_choices
    with pytest.raises(ValueError, match=message):
        replace(evidence(), **change)  # type: ignore[arg-type]


def test_posterior_derives_moments_and_responsibilities() -> None:
    belief = posterior()
    assert belief.means[0].tolist() == [1.0, 0.5, 0.25]
    assert belief.latent_means.shape == (K, D + 1)
    assert belief.covariances[0].tolist() == np.diag([1.0, 0.5, 0.25]).tolist()
    np.testing.assert_allclose(belief.responsibilities, [2 / 3, 1 / 3])
    np.testing.assert_allclose(belief.mean, [1.0, 2 / 3, 0.5])
    draws = np.random.default_rng(0)
    which = draws.random(200_000) < 1 / 3
    sample = np.where(which[:, None], 1.0, [1.0, 0.5, 0.25]) + draws.normal(size=(200_000, D)) * np.where(
        which[:, None], 1.0, np.sqrt([1.0, 0.5, 0.25])
    )
    np.testing.assert_allclose(belief.covariance, np.cov(sample.T), atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": np.zeros((K, D))}, "shift must have shape"),
        ({"num_events": -1}, "num_events"),
        ({"flip_rate": -0.1}, "flip_rate"),
        ({"evidence": replace(evidence(), designs=np.ones((3, 2)))}, "must have 4 columns"),
    ],
)
def test_posterior_refuses_what_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(posterior(), **change)  # type: ignore[arg-type]


def test_arrays_survive_a_file_without_pickle() -> None:
    for original in (posterior(), population(), replace(population(), gating_weights=None, drift_half_life_s=None)):
        buffer = io.BytesIO()
        np.savez(buffer, **original.to_arrays())  # type: ignore[arg-type]
        buffer.seek(0)
        with np.load(buffer, allow_pickle=False) as arrays:
            copy = type(original).from_arrays(arrays)
        assert original.to_arrays().keys() == copy.to_arrays().keys()
        for name, array in original.to_arrays().items():
            np.testing.assert_array_equal(array, copy.to_arrays()[name], err_msg=name)


def test_routes_and_arms_check_themselves() -> None:
    still = np.zeros(D)
    taste = Mixture(np.array([1.0]), np.zeros((1, D)), np.eye(D)[None])
    route = Route(np.array([1.0]), still, 0.0, 0.5, 0.5, None, "no_feedback", taste, taste, 0.0, still)
    assert route.is_zero
    assert not route.is_steered
    assert replace(route, adapter="formal").is_steered
    assert not replace(route, steering="gate").is_zero
    assert replace(route, steering="on", dose=0.1).is_steered
    with pytest.raises(ValueError, match="certainty"):
        replace(route, certainty=1.5)
    with pytest.raises(ValueError, match="dose"):
        replace(route, dose=-1.0)
    with pytest.raises(ValueError, match="judge"):
        replace(route, judge=Mixture(np.array([1.0]), np.zeros((1, 2)), np.eye(2)[None]))
    plan = CandidatePlan((Arm("base", still), Arm("steered", np.ones(D), 0.1)))
    assert plan.num_arms == 2
    assert CandidatePlan((Arm("steered", np.ones(D), 0.1),)).num_arms == 1
    with pytest.raises(ValueError, match="first of several"):
        CandidatePlan((Arm("steered", np.ones(D), 0.1), Arm("base", still)))
    with pytest.raises(ValueError, match="at least one"):
        CandidatePlan(())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "magic"}, "kind must be one of"),
        ({"dose": -0.1}, "dose"),
        ({"dose": 0.1}, "not steered"),
        ({"adapter": "a"}, "adapter"),
        ({"instruction": "Be brief."}, "instruction"),
    ],
)
def test_arm_refuses_what_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Arm("base", np.zeros(D)), **change)  # type: ignore[arg-type]
