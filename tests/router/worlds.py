"""Simulated people and small populations for the router's tests. Knows nothing that the tests do not state."""

from typing import NamedTuple

import numpy as np

from router.feedback import FeedbackTable, binary_table
from router.types import Array, Comparison, Event, Population, Ranking, Rating, Thumb


class World(NamedTuple):
    table: FeedbackTable
    prototypes: Array  # (K, P)
    members: np.ndarray[tuple[int, ...], np.dtype[np.int64]]  # (U,)
    weights: Array  # (U, P)


def simulate(
    seed: int, shares: list[float], *, flip_rate: float = 0.2, num_people: int = 300, num_events: int = 40, P: int = 6
) -> World:
    """People of K orthogonal prototypes of length 3, comparing random items; labels flip at `flip_rate`."""
    rng = np.random.default_rng(seed)
    K, n, M = len(shares), 400, num_people * num_events
    items = rng.normal(size=(n, P))
    prototypes = np.linalg.qr(rng.normal(size=(P, P)))[0][:K] * 3.0
    members = rng.choice(K, size=num_people, p=shares)
    weights = prototypes[members] + 0.3 * rng.normal(size=(num_people, P))
    people = np.repeat(np.arange(num_people), num_events)
    first = rng.integers(n, size=M)
    second = (first + 1 + rng.integers(n - 1, size=M)) % n
    scores = np.sum((items[first] - items[second]) * weights[people], axis=1)
    liked = (rng.random(M) < 1 / (1 + np.exp(-scores))) ^ (rng.random(M) < flip_rate)
    plus, minus = np.where(liked, first, second), np.where(liked, second, first)
    return World(binary_table(items, people, plus, minus, np.zeros(M)), prototypes, members, weights)


def small_population(D: int = 2, K: int = 2, *, flip_rate: float = 0.0, seed: int = 0) -> Population:
    """A population of random prototypes over D plain features."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(K, D, D)) / np.sqrt(D)
    return Population(
        basis=np.eye(D),
        center=np.zeros(D),
        scale=np.ones(D),
        mixture_weights=np.full(K, 1 / K),
        means=rng.normal(size=(K, D)),
        covariances=roots @ roots.transpose(0, 2, 1) + 0.3 * np.eye(D),
        base_weights=0.5 * np.ones(D),
        flip_rate=flip_rate,
    )


def mixed_events(D: int, count: int, seed: int = 0) -> list[Event]:
    """Events of every kind in turn, with random features."""
    rng = np.random.default_rng(seed)
    events: list[Event] = []
    for i in range(count):
        name, features = f"e{i}", rng.normal(size=(3, D))
        kinds: list[Event] = [
            Comparison(event_id=name, chosen=features[0], rejected=features[1]),
            Thumb(event_id=name, features=features[0], reference=features[1], value=1 if rng.random() < 0.5 else -1),
            Rating(event_id=name, features=features[0], reference=features[1], level=int(rng.integers(5))),
            Ranking(event_id=name, features=features, weight=0.5),
        ]
        events.append(kinds[i % 4])
    return events
