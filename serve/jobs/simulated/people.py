"""Simulated evaluation people: hidden weights over text properties, noisy judgements, what an answer is worth to them.

Families: sparse (two or three properties), dense (all), contradictory (two properties that exclude one another in plain
text, both wanted), drifting (another taste for the first half of the feedback). Part of what they like may be common to
all of them, or to each of several groups, whoever is drawn: an app's users are of a kind. Deterministic under a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from serve.jobs.learning.properties import PROPERTIES
from serve.jobs.learning.text import Array, Property, Standard, measure

Kind = Literal["sparse", "dense", "contradictory", "drifting"]
SHARES: tuple[tuple[Kind, float], ...] = (("sparse", 0.5), ("dense", 0.25), ("contradictory", 0.15), ("drifting", 0.1))


@dataclass(frozen=True)
class Judging:
    """How people judge."""

    sharpness: float = 2.5  # logits per standard deviation of the person's own utility over plain answers
    flip_rate: float = 0.05  # share of judgements that come out the wrong way round


@dataclass(frozen=True)
class Common:
    """What people have in common, whichever of them are drawn: the same tastes under the same seed."""

    share: float = 0.0  # of the variance of what a person likes; the rest is the person's own
    num_groups: int = 1  # each with a taste of its own; people fall into them in turns
    seed: int = 0


NOTHING_COMMON = Common()


@dataclass(frozen=True, eq=False)
class Person:
    """One person; weights are of length 1."""

    id: str
    kind: Kind
    weights: Array  # (A,) over properties in deviations from the usual
    earlier: Array  # (A,) while the first half of the feedback is given; the same but for the drifting
    mean: float  # of the raw utility over plain answers
    spread: float  # its standard deviation there

    def utility(self, properties: Array) -> Array:
        """Utility of answers with standardised properties (..., A), in deviations over plain answers."""
        return np.asarray((properties @ self.weights - self.mean) / self.spread)

    def early_utility(self, properties: Array) -> Array:
        """The same by the earlier taste; only differences mean anything."""
        return np.asarray(properties @ self.earlier / self.spread)

    def chooses(self, answers: Array, is_early: bool, judging: Judging, rng: np.random.Generator) -> int:
        """Choose the best of answers with properties (n, A), with logistic noise; some choices fall on another one."""
        value = self.early_utility if is_early else self.utility
        best = int(np.argmax(judging.sharpness * value(answers) + rng.gumbel(size=len(answers))))
        if rng.random() >= judging.flip_rate:
            return best
        return int((best + rng.integers(1, len(answers))) % len(answers))


@dataclass(frozen=True, eq=False)
class Meter:
    """Measures texts by the tastes' properties, in deviations from the usual of plain answers."""

    standard: Standard
    family: tuple[Property, ...] = PROPERTIES

    @classmethod
    def of(cls, texts: Sequence[str], family: tuple[Property, ...] = PROPERTIES) -> Meter:
        """Take what is usual from plain answers."""
        return cls(Standard.of(measure(texts, family)), family)

    def __call__(self, texts: Sequence[str]) -> Array:
        """Measure texts, (n, A)."""
        return self.standard(measure(texts, self.family))


def draw_people(num: int, plain: Array, seed: int, common: Common = NOTHING_COMMON) -> list[Person]:
    """Draw people whose utility is standardised over plain answers' properties (n, A)."""
    rng = np.random.default_rng(seed)
    groups = np.random.default_rng(common.seed).standard_normal((common.num_groups, plain.shape[1]))
    num_properties = plain.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):  # a property that no plain answer varies in
        correlation = np.nan_to_num(np.corrcoef(plain.T))
    kinds = _kinds(num)
    people = []
    for number, kind in enumerate(kinds):
        weights = _weights(kind, num_properties, correlation, rng)
        earlier = _weights("sparse", num_properties, correlation, rng) if kind == "drifting" else weights
        weights, earlier = (
            _mixed(own, groups[number % common.num_groups], plain, common) for own in (weights, earlier)
        )
        raw = plain @ weights
        people.append(
            Person(f"person-{seed}-{number}", kind, weights, earlier, float(raw.mean()), float(max(raw.std(), 1e-9)))
        )
    return people


def _mixed(own: Array, group: Array, plain: Array, common: Common) -> Array:
    """Add a group's taste (A,) to a person's own (A,): it makes its share of the variance over plain answers."""
    if not common.share:
        return own
    parts = [weights / max(float((plain @ weights).std()), 1e-9) for weights in (group, own)]
    mixed = np.sqrt(common.share) * parts[0] + np.sqrt(1.0 - common.share) * parts[1]
    return np.asarray(mixed / np.linalg.norm(mixed))


def _kinds(num: int) -> list[Kind]:
    """Spread the families over people by their shares, in turns."""
    counts: dict[Kind, float] = dict.fromkeys((kind for kind, _ in SHARES), 0.0)
    kinds: list[Kind] = []
    for number in range(1, num + 1):
        kind = max(SHARES, key=lambda share: share[1] * number - counts[share[0]])[0]
        counts[kind] += 1
        kinds.append(kind)
    return kinds


def _weights(kind: Kind, num: int, correlation: Array, rng: np.random.Generator) -> Array:
    weights = np.zeros(num)
    if kind == "dense":
        weights = rng.standard_normal(num)
    elif kind == "contradictory":
        first = int(rng.integers(num))
        signed = correlation[first].copy()
        signed[first] = np.inf
        weights[first] = weights[int(np.argmin(signed))] = rng.choice([-1.0, 1.0])
    else:
        cared = rng.choice(num, size=min(int(rng.integers(2, 4)), num), replace=False)
        weights[cared] = rng.choice([-1.0, 1.0], size=len(cared)) * rng.uniform(0.5, 1.5, size=len(cared))
    return np.asarray(weights / np.linalg.norm(weights))
