"""One answer for several people: mean, max-min or Nash product over their gains against the base answer.

Works on gains in logits of a comparison, a scale people share: σ(gain) is the chance that this person would pick the
candidate over the base. Knows nothing of posteriors or of how rewards came about. Max-min is MaxMin-RLHF's rule
(Chakraborty et al. 2024), the Nash product that of Nash 1950 with "base preferred" as the disagreement point.
"""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Aggregate(StrEnum):
    """How the wishes of several people become one."""

    MEAN = "mean"  # most total gain: a strong wish outweighs a weak one
    MAX_MIN = "max_min"  # the worst-off person first
    NASH = "nash"  # between the two: doubling one person's chance counts as much as doubling another's


def aggregate_gains(gains: Floats, rule: Aggregate) -> Floats:
    """Combine gains over base (P, N) of P people into one score (N,), 0 where nobody gains or loses.

    Nash is the logarithm of the product of σ(gain), shifted to 0 at the base, per person: at most log 2.
    """
    _check(gains, "gains")
    match rule:
        case Aggregate.MEAN:
            combined = gains.mean(axis=0)
        case Aggregate.MAX_MIN:
            combined = gains.min(axis=0)
        case _:
            combined = np.log(2.0) - np.logaddexp(0.0, -gains).mean(axis=0)
    return np.asarray(combined)


def aggregate_probabilities(probabilities: Floats, rule: Aggregate) -> Floats:
    """Combine each person's P(candidate better than base) (P, N) into the group's (N,), for the gate.

    By the same rule: arithmetic mean, minimum, geometric mean; so max-min serves a challenger only if everyone's gate
    opens.
    """
    _check(probabilities, "probabilities")
    if probabilities.min() < 0.0 or probabilities.max() > 1.0:
        raise ValueError("probabilities must lie in [0, 1]")
    match rule:
        case Aggregate.MEAN:
            combined = probabilities.mean(axis=0)
        case Aggregate.MAX_MIN:
            combined = probabilities.min(axis=0)
        case _:
            combined = np.exp(np.log(np.maximum(probabilities, np.finfo(float).tiny)).mean(axis=0))
    return np.asarray(combined)


def _check(values: Floats, name: str) -> None:
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"give {name} as (people, candidates), at least one of each; got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite; take vetoed candidates out first")
