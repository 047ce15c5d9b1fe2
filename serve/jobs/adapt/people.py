"""Who teaches and who judges: everybody in the store, read once, learners and held-out people apart.

Held out are those whom no fit learns from (`serve.jobs.fit.gathering.place_of`). A learner's texts count by how far
they belong to a prototype; a held-out person judges a prototype's adapter if routing would serve it to them. Numbers
and texts only: no user id leaves. Knows neither training nor engines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from router.posterior import prior, update_many
from router.routing import RoutingConfig, judge_of
from router.types import Array
from serve.artifacts.artifact import Artifact
from serve.jobs.adapt.pairs import Pair, capped_weights, told_pairs
from serve.jobs.fit.fitting import LONG_ENOUGH
from serve.jobs.fit.gathering import everybody, place_of
from serve.preferences import Preferences
from user_store.folding import effective
from user_store.store import UserStore

HELD_OUT_SHARE = 0.2
MIN_TEACHERS = 20  # people whose texts are trained on; an adapter could repeat what fewer wrote
MIN_JUDGES = 10
NUM_DRAWN = 64
MAX_SHARE = 0.05  # of the weight of what was said, that one person may hold


@dataclass(frozen=True, eq=False)
class Person:
    """What matters of one person."""

    is_held_out: bool
    shares: Array  # (K,) responsibilities
    weights: Array  # (D,) by which they judge answers
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, eq=False)
class Judges:
    """People who say which answers are better."""

    weights: Array  # (J, D)
    shares: Array  # (J,) how much each counts
    origin: str  # "held out", or "drawn" from the prototype's prior


async def read_people(store: UserStore, artifact: Artifact, progress: Callable[[int], object]) -> list[Person]:
    """Read everybody who said enough; `progress` is called with 1 for each log."""
    reader = Preferences(artifact)
    start = prior(artifact.population)
    people = []
    async for key in everybody(store):
        standing = effective(await store.read_log(key))
        progress(1)
        events = [one for event in standing for one in reader.events(event)]
        if len(events) < LONG_ENOUGH:
            continue
        posterior = update_many(artifact.population, start, events)
        is_held_out = place_of(key) < HELD_OUT_SHARE
        told = () if is_held_out else tuple(told_pairs(standing, artifact.questions))
        people.append(
            Person(is_held_out, posterior.responsibilities, judge_of(artifact.population, posterior).mean, told)
        )
    return people


def taught_pairs(people: list[Person], prototype: int) -> list[Pair]:
    """Return what learners said, weighed by their share in a prototype; nothing if they are too few."""
    teachers = [
        (person, float(person.shares[prototype]))
        for person in people
        if person.pairs and person.shares[prototype] >= 1.0 / len(person.shares)
    ]
    if len(teachers) < MIN_TEACHERS:
        return []
    pairs = [pair for person, _ in teachers for pair in person.pairs]
    who = np.repeat(np.arange(len(teachers)), [len(person.pairs) for person, _ in teachers])
    shares = np.array([share for _, share in teachers])
    weights = capped_weights(shares[who], who, MAX_SHARE)
    return [replace(pair, weight=float(weight)) for pair, weight in zip(pairs, weights, strict=True)]


def held_out_judges(people: list[Person], prototype: int, config: RoutingConfig) -> Judges | None:
    """Return the held-out people whom the prototype's adapter would serve; None if they are too few to judge."""
    own = [person for person in people if person.is_held_out and is_served(person.shares, prototype, config)]
    if len(own) < MIN_JUDGES:
        return None
    weights = np.stack([person.weights for person in own])
    return Judges(weights, np.array([person.shares[prototype] for person in own]), "held out")


def drawn_judges(artifact: Artifact, prototype: int, rng: np.random.Generator) -> Judges:
    """Draw people from a prototype's prior: they judge by the rewards that taught, so they prove less."""
    population = artifact.population
    drawn = rng.multivariate_normal(population.means[prototype], population.covariances[prototype], NUM_DRAWN)
    return Judges(population.base_weights + drawn, np.ones(NUM_DRAWN), "drawn")


def is_served(shares: Array, prototype: int, config: RoutingConfig) -> bool:
    """Whether routing would give a prototype's adapter to somebody with these responsibilities (K,)."""
    others = np.delete(shares, prototype)
    lead = shares[prototype] - (others.max() if len(others) else 0.0)
    return bool(shares[prototype] >= config.adapter_min_weight and lead >= config.adapter_margin)
