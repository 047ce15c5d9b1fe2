from dataclasses import replace

import numpy as np
import pytest

from tests.router.types.cases import D, K, population


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
