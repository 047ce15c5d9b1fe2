"""Small values with two prototypes, three features and evidence of both forms."""

import numpy as np

from router.types import Evidence, Population, Posterior

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
