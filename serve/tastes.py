"""A person's taste over time and among others: what each piece of feedback changed, and a flat map without names.

Composes the store's log, the preference model and the latent index. Knows no HTTP; errors of the store come up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.explain import CREDIBLE
from router.posterior import prior
from router.types import Array, Posterior
from serve.people import People
from serve.preferences import Preferences, decode_posterior
from user_store.folding import effective
from user_store.types import FeedbackEvent, UserKey

MAX_MAPPED = 400  # people on one map
MIN_MAPPED = 5  # others; fewer points would say too much about each
PRIOR_PEOPLE = 10.0  # what the population's covariance counts for beside that many people's


@dataclass(frozen=True, slots=True)
class Interval:
    """A belief about one attribute's weight, in logits per standard deviation; 95 % credible."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Moment:
    """What was believed after one event; without one, before any that is traced."""

    event: FeedbackEvent | None
    attributes: dict[str, Interval]
    mixture_weights: tuple[float, ...]


@dataclass(frozen=True, eq=False, slots=True)
class TasteMap:
    """Tastes on a plane: the two directions in which people differ most."""

    axes: tuple[dict[str, float], dict[str, float]]  # loadings of the named attributes
    num_people: int
    others: Array  # (U, 2), in no order that tells who
    person: Array | None  # (2,); None without counting feedback
    prototypes: Array  # (K, 2)
    prototype_weights: tuple[float, ...]  # (K,) this person's mixture weights
    prototype_tastes: tuple[dict[str, float], ...]  # (K,) named attributes of each


async def trace(people: People, key: UserKey, limit: int) -> list[Moment]:
    """Tell what was believed after each of the last `limit` events that count, oldest first.

    The log is folded one event at a time in a thread, as it was when the events came; later replacements left out.
    """
    counting = effective(await people.store.read_log(key))
    if not counting:
        return []
    return await asyncio.to_thread(_trace, people.in_service.meant_for(key).preferences, counting, limit)


def _trace(preferences: Preferences, events: Sequence[FeedbackEvent], limit: int) -> list[Moment]:
    model, start = preferences.model, prior(preferences.artifact.population)
    early, late = events[:-limit], events[-limit:]
    arrays = model.fold(model.start(), early) if early else model.start()
    directions = preferences.artifact.attribute_directions
    moments = [_moment(directions, decode_posterior(arrays, start), None)]
    for event in late:
        arrays = model.fold(arrays, [event])
        moments.append(_moment(directions, decode_posterior(arrays, start), event))
    return moments


def _moment(directions: Mapping[str, Array], posterior: Posterior, event: FeedbackEvent | None) -> Moment:
    taste, tails = posterior.taste, np.array([0.5 * (1.0 - CREDIBLE), 0.5 * (1.0 + CREDIBLE)])
    found = {}
    for name, direction in directions.items():
        low, high = taste.quantiles(direction, tails)
        found[name] = Interval(float(taste.mean @ direction), float(low), float(high))
    return Moment(event, found, tuple(posterior.responsibilities.tolist()))


async def draw_map(people: People, key: UserKey) -> TasteMap:
    """Draw everybody of a tenant on a plane, with one person in it; anybody's map, also before they said anything."""
    state = await people.store.get_state(key)
    edition = people.in_service.reading(state)
    posterior = edition.preferences.posterior(state)
    population, directions = edition.artifact.population, edition.artifact.attribute_directions
    index = edition.index
    latents, num_people = np.zeros((0, population.num_features)), 0
    if index is not None:
        latents = (await index.sample(key.tenant, MAX_MAPPED, without=key.user)).astype(np.float64)
        num_people = await index.size(key.tenant)
    everyone = edition.artifact.space.prior
    center = everyone.mean
    axes = _axes(everyone.covariance, latents - center)
    shown = latents if len(latents) >= MIN_MAPPED else latents[:0]
    points = (shown - center) @ axes.T
    weights = population.mixture_weights if posterior is None else posterior.responsibilities
    return TasteMap(
        axes=(_named(directions, axes[0]), _named(directions, axes[1])),
        num_people=num_people,
        others=points[np.lexsort(points.T)],
        person=None if posterior is None else axes @ (posterior.taste.mean - center),
        prototypes=(population.means - center) @ axes.T,
        prototype_weights=tuple(weights.tolist()),
        prototype_tastes=tuple(_named(directions, mean) for mean in population.means),
    )


def _axes(covariance: Array, latents: Array) -> Array:
    """Find the two directions of most variance, (2, D), among people (U, D) and the population's covariance (D, D)."""
    num_people = float(len(latents))
    spread = (latents.T @ latents + PRIOR_PEOPLE * covariance) / (num_people + PRIOR_PEOPLE)
    _, vectors = np.linalg.eigh(spread)  # ascending
    axes = vectors[:, ::-1][:, :2].T
    if len(axes) < 2:
        axes = np.vstack([axes, np.zeros_like(axes)])
    largest = np.abs(axes).argmax(axis=1)
    signs = np.where(axes[np.arange(2), largest] < 0.0, -1.0, 1.0)  # so that the map does not flip between requests
    return np.asarray(axes * signs[:, None])


def _named(directions: Mapping[str, Array], values: Array) -> dict[str, float]:
    return {name: float(values @ direction) for name, direction in directions.items()}
