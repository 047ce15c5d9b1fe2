"""People with known tastes: prototypes, their shares, labels of which a known part is flipped."""

from dataclasses import dataclass

import numpy as np

from router.feedback import FeedbackTable, Index, binary_table
from router.types import Array


@dataclass(frozen=True, eq=False)
class Crowd:
    """People and the comparisons they made: item `plus` was said to be preferred to `minus`."""

    features: Array  # (n, P)
    tastes: Array  # (U, P)
    prototypes: Index  # (U,)
    people: Index  # (R,)
    plus: Index  # (R,)
    minus: Index  # (R,)

    def table(self) -> FeedbackTable:
        """Their comparisons as a table."""
        return binary_table(self.features, self.people, self.plus, self.minus, np.zeros(len(self.people)))


def simulate(
    prototypes: Array, sizes: tuple[int, ...], num_each: int, *, spread: float, flip_rate: float, seed: int
) -> Crowd:
    """Draw `sizes[k]` people around each prototype (K, P); item pairs are drawn anew for every comparison."""
    rng = np.random.default_rng(seed)
    P, U = prototypes.shape[1], sum(sizes)
    labels = np.repeat(np.arange(len(sizes)), sizes)[rng.permutation(U)]
    tastes = prototypes[labels] + spread * rng.normal(size=(U, P))
    people = np.repeat(np.arange(U), num_each)
    R = len(people)
    features = rng.normal(size=(2 * R, P))
    first, second = np.arange(R), np.arange(R) + R
    scores = ((features[first] - features[second]) * tastes[people]).sum(axis=1)
    prefers = rng.random(R) < 1 / (1 + np.exp(-scores))
    prefers ^= rng.random(R) < flip_rate
    plus, minus = np.where(prefers, first, second), np.where(prefers, second, first)
    return Crowd(features, tastes, labels, people, plus, minus)
