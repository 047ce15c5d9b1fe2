"""Differences of two groups' means that may be looked at as often as one likes: an asymptotic confidence sequence.

Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024 (Annals of Statistics, eq. 7): the normal mixture's boundary with the
running variance. With probability 1 - alpha the true difference lies within all intervals ever computed, so an
experiment may stop at any of them. Knows nothing of what is compared.
"""

from dataclasses import dataclass

import numpy as np

from router.types import Array

TUNED_FOR = 200  # people in both groups at which the interval is tightest beside a fixed one
FEWEST = 10  # in each group, before a variance means anything


@dataclass(frozen=True, slots=True)
class Difference:
    """First mean minus second, with its interval; infinite where too little is known."""

    mean: float
    low: float
    high: float

    @property
    def is_decided(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0.0 or self.high < 0.0


def difference(first: Array, second: Array, alpha: float = 0.05) -> Difference:
    """Compare independent observations, one a person, (n,) and (m,); bounded or with finite variance."""
    n = len(first) + len(second)
    if min(len(first), len(second)) < FEWEST:
        mean = float(first.mean() - second.mean()) if len(first) and len(second) else 0.0
        return Difference(mean, -np.inf, np.inf)
    mean = float(first.mean() - second.mean())
    # A person of each group tells of its own mean alone: the variance of the difference is that of n such terms.
    variance = n * (_variance(first) / len(first) + _variance(second) / len(second))
    rho = mixture_scale(TUNED_FOR, alpha)
    spread = n * rho**2 + 1.0
    half = float(np.sqrt(2.0 * variance * spread / (n * rho) ** 2 * np.log(np.sqrt(spread) / alpha)))
    return Difference(mean, mean - half, mean + half)


def mixture_scale(num: int, alpha: float) -> float:
    """Return the mixture's scale that makes the interval tightest after `num` observations (their appendix B.2)."""
    log = -2.0 * np.log(alpha)
    return float(np.sqrt((log + np.log(log + 1.0)) / num))


def _variance(values: Array) -> float:
    """Variance, never nothing: everybody's saying the same so far does not make it certain."""
    shrunk = np.append(values, [values.mean() - 0.5, values.mean() + 0.5])
    return float(shrunk.var(ddof=1))
