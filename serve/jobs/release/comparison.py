"""Two populations on the same people, whom neither was fitted to: who predicts them better, how surely, and whom worse.

Each person's even events are the evidence and the odd ones the question (`router.held_out`). Intervals are of a paired
bootstrap over people, since one person's judgements belong together. Knows neither stores nor artifacts' files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.held_out import Foretold, halves, unpersonalized
from router.types import Array, Evidence, Population

NUM_DRAWS = 1000
NUM_BINS = 20  # of probabilities; of two outcomes the likelier one's take half of them
LEAST = 1e-12  # probability
WORST_SHARE = 0.1  # of people, those predicted worst
FEWEST_IN_GROUP = 5
FELT = 0.02  # nats a judgement; of less, half of the people have more and half less wherever there is little taste


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one population says of everybody's second halves; U people, G events."""

    people: NDArray[np.int64]  # (G,) from 0
    said: Array  # (G,) probability of what the person said
    instead: Array  # (G,) of the likeliest thing they could have said instead
    plain_said: Array  # (G,) of what they said, before anything was known of them
    groups: NDArray[np.int64]  # (U,) most probable prototype
    update_ms: float  # median time to believe a person's first half

    def losses(self) -> Array:
        """Each person's log-loss, nats a judgement, (U,)."""
        return self._means(-np.log(self.said))

    def hits(self) -> Array:
        """Each person's share of judgements that were thought likeliest, (U,)."""
        return self._means(self.said > self.instead)

    def harmed(self) -> Array:
        """Who is predicted worse than without any knowledge of them, by more than nothing: (U,) of 0 and 1."""
        plain = self._means(-np.log(self.plain_said))
        return np.asarray(self.losses() > plain + FELT, np.float64)

    def _means(self, values: NDArray[Any]) -> Array:
        num = np.bincount(self.people)
        return np.asarray(np.bincount(self.people, values.astype(np.float64)) / num)


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True, slots=True)
class Compared:
    """One measure of both, and the candidate's minus the other's on the same people."""

    candidate: Interval
    in_service: Interval
    difference: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found; each measure over the same people."""

    num_people: int
    num_judgements: int
    log_loss: Compared
    accuracy: Compared
    calibration_error: Compared  # mean gap between stated and observed probability, over ten bins
    harm: Compared  # share of people predicted worse than without knowing them
    worst_tenth: Compared  # log-loss of the tenth of people predicted worst
    groups: tuple[Compared, ...]  # log-loss by prototype of the version in service, where there are people enough
    update_ms: tuple[float, float]  # candidate, in service


def predict(population: Population, people: Sequence[Evidence]) -> Predictions:
    """Predict second halves from first halves. Every person needs two events at least."""
    numbers, groups, times = list[int](), list[int](), list[float]()
    known, plain = list[Foretold](), list[Foretold]()
    for number, person in enumerate(people):
        begin = time.perf_counter()
        posterior, foretold = halves(population, person)
        times.append(time.perf_counter() - begin)
        numbers += [number] * len(foretold.said)
        known.append(foretold)
        plain.append(unpersonalized(population, person))
        groups.append(int(posterior.responsibilities.argmax()))
    return Predictions(
        people=np.array(numbers, np.int64),
        said=np.maximum(np.concatenate([one.said for one in known]), LEAST),
        instead=np.concatenate([one.instead for one in known]),
        plain_said=np.maximum(np.concatenate([one.said for one in plain]), LEAST),
        groups=np.array(groups, np.int64),
        update_ms=1e3 * float(np.median(times)),
    )


def compare(candidate: Predictions, in_service: Predictions, seed: int = 0) -> Comparison:
    """Compare on the same people and events; deterministic under `seed`."""
    num_people = len(candidate.groups)
    draws = np.random.default_rng(seed).integers(num_people, size=(NUM_DRAWS, num_people))
    both = candidate, in_service

    def compared(values: Callable[[Predictions], Array], among: NDArray[np.bool_] | None = None) -> Compared:
        """Compare means over people (of a group) of a value each has."""
        weights = np.ones(num_people) if among is None else among.astype(np.float64)
        first, second = (values(one) for one in both)

        def mean(numbers: Array, drawn: NDArray[np.int64]) -> float:
            return float(weights[drawn] @ numbers[drawn] / max(weights[drawn].sum(), 1e-12))

        return _intervals(lambda drawn: (mean(first, drawn), mean(second, drawn)), draws)

    def tails(drawn: NDArray[np.int64]) -> tuple[float, float]:
        num = max(1, round(WORST_SHARE * num_people))
        first, second = (float(np.sort(one[drawn])[-num:].mean()) for one in losses)
        return first, second

    losses = [one.losses() for one in both]
    binned = [_binned(one) for one in both]
    members = [in_service.groups == group for group in range(int(in_service.groups.max()) + 1)]
    return Comparison(
        num_people=num_people,
        num_judgements=len(candidate.people),
        log_loss=compared(Predictions.losses),
        accuracy=compared(Predictions.hits),
        calibration_error=_intervals(lambda drawn: (_gap(binned[0], drawn), _gap(binned[1], drawn)), draws),
        harm=compared(Predictions.harmed),
        worst_tenth=_intervals(tails, draws),
        groups=tuple(compared(Predictions.losses, one) for one in members if one.sum() >= FEWEST_IN_GROUP),
        update_ms=(candidate.update_ms, in_service.update_ms),
    )


def _intervals(measure: Callable[[NDArray[np.int64]], tuple[float, float]], draws: NDArray[np.int64]) -> Compared:
    first, second = measure(np.arange(draws.shape[1]))
    drawn = np.array([measure(people) for people in draws])  # (draws, 2)

    def interval(value: float, values: Array) -> Interval:
        low, high = np.quantile(values, [0.025, 0.975])
        return Interval(float(value), float(low), float(high))

    return Compared(
        interval(first, drawn[:, 0]), interval(second, drawn[:, 1]), interval(first - second, drawn[:, 0] - drawn[:, 1])
    )


def _binned(one: Predictions) -> Array:
    """Sums by person and bin (U, bins, 3): events, stated probability of the likeliest outcome, whether it came."""
    stated = np.maximum(one.said, one.instead)
    came = one.said > one.instead
    bins = np.minimum((stated * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    sums = np.zeros((len(one.groups), NUM_BINS, 3))
    np.add.at(sums, (one.people, bins), np.column_stack([np.ones_like(stated), stated, came]))
    return sums


def _gap(binned: Array, drawn: NDArray[np.int64]) -> float:
    counts, stated, came = binned[drawn].sum(axis=0).T
    return float(np.abs(stated - came).sum() / counts.sum())
