"""What one person may see and decide about their own model: beliefs with their reasons, pins, bars, pauses.

Composes the store's records with `router.explain`. Knows no HTTP; errors of `serve.errors` come up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from router.explain import Explanation, explain
from router.likelihood import select
from router.posterior import condition, prior
from router.types import Array, Population, Posterior
from serve.artifacts.artifact import Artifact
from serve.errors import Conflict, InvalidRequest, NotFound
from serve.people import People
from user_store import errors as store_errors
from user_store.types import CompletionRecord, FeedbackEvent, Profile, UserKey, UserState

MAX_LESSONS_TRIED = 64  # newest events whose effect is worked out, one refit each
MAX_ATTEMPTS = 16


@dataclass(frozen=True, eq=False, slots=True)
class Portrait:
    """A person as their model sees them."""

    state: UserState
    artifact: str  # version of the one that reads them
    num_events: int  # in the log, withdrawn ones apart
    num_counting: int  # that the posterior rests on
    mixture_weights: tuple[float, ...]
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """What to change; None leaves it. A pin of None is taken off."""

    pins: Mapping[str, float | None] | None = None
    bars: Collection[str] | None = None
    is_learning_paused: bool | None = None


async def known_state(people: People, key: UserKey) -> UserState:
    """Read a person, up to date. NotFound if nothing was ever stored about them."""
    state = await people.store.get_state(key)
    if not state.is_known:
        raise NotFound("Nothing is known about this person.")
    return await people.learn(key) if people.is_behind(state) else state


async def portray(people: People, key: UserKey) -> Portrait:
    """Describe a person; refits the posterior up to MAX_LESSONS_TRIED times, in a thread. NotFound if unknown."""
    state = await known_state(people, key)
    edition = people.in_service.reading(state)
    artifact, posterior = edition.artifact, edition.preferences.posterior(state)
    events = await people.store.read_log(key)
    standing = [event for event in events if not event.is_withdrawn]
    population = artifact.population
    if posterior is None:
        space = artifact.space
        nothing = np.zeros((0, population.num_features))
        told = explain(space.prior, _names(population), space.response, decisions=nothing, means_without={})
        weights = tuple(population.mixture_weights.tolist())
        return Portrait(state, artifact.version, len(standing), 0, weights, told)
    records = await people.store.list_completions(key, now=people.clock())
    told = await asyncio.to_thread(_explain, artifact, posterior, standing, records)
    weights = tuple(posterior.responsibilities.tolist())
    return Portrait(state, artifact.version, len(standing), _num_counting(posterior, standing), weights, told)


def _names(population: Population) -> tuple[str, ...]:
    return population.attribute_names or ("",) * population.num_features


def _explain(
    artifact: Artifact, posterior: Posterior, events: Sequence[FeedbackEvent], records: Sequence[CompletionRecord]
) -> Explanation:
    population = artifact.population
    kept = {_event_id(name) for name in posterior.evidence.event_ids}
    tried = [event.id for event in events if event.id in kept][-MAX_LESSONS_TRIED:]
    means = {event_id: _mean_without(population, posterior, event_id) for event_id in tried}
    space = artifact.feature_space.id
    decisions = [row for record in records for row in _decision(population, record, space)]
    rows = np.stack(decisions) if decisions else np.zeros((0, population.num_features))
    return explain(posterior.taste, _names(population), artifact.response, decisions=rows, means_without=means)


def _event_id(name: str) -> str:
    """Return the event that a row of evidence came from: remarks carry the attribute behind a slash."""
    return name.partition("/")[0]


def _mean_without(population: Population, posterior: Posterior, event_id: str) -> Array:
    keep = [_event_id(name) != event_id for name in posterior.evidence.event_ids]
    num_left = len({name for name, kept in zip(posterior.evidence.event_ids, keep, strict=True) if kept})
    nobody = prior(population)  # where the fit of the posterior itself began
    nothing = select(posterior.evidence, [False] * len(keep))
    start = replace(posterior, evidence=nothing, num_events=0, precision=nobody.precision, shift=nobody.shift)
    return condition(population, start, select(posterior.evidence, keep), num_left).mean


def _decision(population: Population, record: CompletionRecord, space: str) -> list[Array]:
    """Return the winner's features minus the base answer's, if there was a choice in this feature space."""
    if record.features is None or "base" not in record.arms or record.payload.get("feature_space") != space:
        return []
    base = record.arms.index("base")
    if base == record.chosen:
        return []
    phi = population.features(np.asarray(record.features, np.float64))
    return [phi[record.chosen] - phi[base]]


def _num_counting(posterior: Posterior, events: Sequence[FeedbackEvent]) -> int:
    """Count the events behind a posterior: those kept as rows, and all older ones if some were condensed."""
    if posterior.folded_precision.any():
        return sum(event.evidence is not None for event in events)
    return len({_event_id(name) for name in posterior.evidence.event_ids})


async def change_profile(people: People, key: UserKey, change: ProfileChange) -> UserState:
    """Apply a change, whoever else changes the profile meanwhile. InvalidRequest for attributes nobody knows."""
    _check_attributes(people, change)
    for _ in range(MAX_ATTEMPTS):
        state = await people.store.get_state(key)
        try:
            profile = _changed(state.profile, change, people.clock())
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        try:
            await people.store.put_profile(key, profile, expected_version=state.profile.version)
        except store_errors.Conflict:
            continue
        return await people.store.get_state(key)
    raise Conflict("The profile changed under every attempt to change it; try again.")


def _check_attributes(people: People, change: ProfileChange) -> None:
    known = [name for name in people.artifact.population.attribute_names if name]
    pinned = [name for name, level in (change.pins or {}).items() if level is not None]
    for name in [*pinned, *(change.bars or ())]:
        if name not in known:
            names = ", ".join(known) or "none"
            raise InvalidRequest(f"There is no attribute '{name}'; attributes: {names}.", param="pins")


def _changed(profile: Profile, change: ProfileChange, now: float) -> Profile:
    pins = dict(profile.pins)
    for name, level in (change.pins or {}).items():
        if level is None:
            pins.pop(name, None)
        else:
            pins[name] = level
    is_paused = profile.is_learning_paused if change.is_learning_paused is None else change.is_learning_paused
    bars = profile.bars if change.bars is None else frozenset(change.bars)
    return Profile(pins, bars, is_paused, created_at=profile.created_at or now)
