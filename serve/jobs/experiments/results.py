"""What people in an experiment said of the answers they got, by arm, from the event log.

By assignment, whichever artifact a person was read with at the moment. One number a person, the mean of what they said
since the start about answers given since the start, so that nobody counts twice. Names nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from router.sequential import Difference, difference
from serve.artifacts.experiments import CANDIDATE, CONTROL, Experiment
from serve.preferences import served_rows
from user_store.errors import Expired, NotFound
from user_store.store import UserStore
from user_store.types import CompletionRecord, FeedbackEvent, FeedbackKind, UserKey

BASE = "base"
ARMS = (CANDIDATE, CONTROL)


@dataclass(frozen=True, slots=True)
class Rate:
    """One measure in one arm."""

    mean: float | None  # over people; None while nobody said anything
    num_people: int
    num_judgements: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure in both arms; the difference's interval holds however often one looks."""

    candidate: Rate
    control: Rate
    difference: Difference


@dataclass(slots=True)
class Said:
    """What everybody in one arm said: one list a person."""

    thumbs: list[list[int]] = field(default_factory=list)  # 1 up, 0 down
    wins: list[list[int]] = field(default_factory=list)  # 1: preferred a personalized answer to the base answer


@dataclass(frozen=True, slots=True)
class Results:
    """What is known so far."""

    thumbs_up: Measured
    wins: Measured  # personalized answers preferred to the base answer, where both were shown

    def conclusion(self) -> str:
        """Say in a sentence whether one may stop."""
        found = {"thumbs": self.thumbs_up.difference, "choices": self.wins.difference}
        better = [name for name, one in found.items() if one.low > 0.0]
        worse = [name for name, one in found.items() if one.high < 0.0]
        if better and worse:
            return f"The candidate is better by {' and '.join(better)} and worse by {' and '.join(worse)}."
        if better or worse:
            return (
                f"The candidate is {'better' if better else 'worse'}, by {' and '.join(better or worse)}; one may stop."
            )
        return "Nothing is decided yet."


async def collect(store: UserStore, experiment: Experiment, progress: Callable[[int], object]) -> Results:
    """Read everybody's log once; `progress` is called with 1 for each. Raises StoreError."""
    said = {arm: Said() for arm in ARMS}
    async for tenant in store.list_tenants():
        async for key in store.iter_users(tenant):
            await _add(said[experiment.arm_of(key)], store, key, experiment.started_at)
            progress(1)
    return Results(
        thumbs_up=_measured(said[CANDIDATE].thumbs, said[CONTROL].thumbs),
        wins=_measured(said[CANDIDATE].wins, said[CONTROL].wins),
    )


async def _add(said: Said, store: UserStore, key: UserKey, started_at: float) -> None:
    thumbs, wins = list[int](), list[int]()
    for event in _standing(await store.read_log(key), started_at):
        records = await _records(store, event)
        if records is None or min(record.created_at for record in records) < started_at:
            continue
        if event.kind is FeedbackKind.THUMB:
            thumbs.append(int(event.value == 1))
        elif (win := _win(event, records)) is not None:
            wins.append(win)
    if thumbs:
        said.thumbs.append(thumbs)
    if wins:
        said.wins.append(wins)


def _standing(log: Sequence[FeedbackEvent], started_at: float) -> list[FeedbackEvent]:
    """Return what was said about answers since the start and neither withdrawn nor replaced."""
    told = [event for event in log if not event.is_withdrawn and not event.is_inferred]
    latest = {event.subject: event.seq for event in told if event.subject is not None}
    return [
        event
        for event in told
        if event.kind in (FeedbackKind.THUMB, FeedbackKind.COMPARISON)
        and event.completion_ids
        and event.created_at >= started_at
        and (event.subject is None or latest[event.subject] == event.seq)
    ]


async def _records(store: UserStore, event: FeedbackEvent) -> list[CompletionRecord] | None:
    """Read what an event is about; None where that is no longer kept, or not stored yet."""
    try:
        found = [
            await store.get_completion(event.key.tenant, name, now=event.created_at) for name in event.completion_ids
        ]
    except (NotFound, Expired):
        return None
    return None if any(record.is_announced_only for record in found) else found


def _win(event: FeedbackEvent, records: Sequence[CompletionRecord]) -> int | None:
    """Tell whether a personalized answer was preferred to the base answer; None where not both were shown."""
    if len(records) == 1:
        arms = [records[0].arms[row] for row in served_rows(records[0])]
    else:
        arms = [record.arms[served_rows(record)[0]] for record in records]
    index = event.value
    is_choice = isinstance(index, int) and 0 <= index < len(arms)
    if not is_choice or not isinstance(index, int) or BASE not in arms or set(arms) == {BASE}:
        return None
    return int(arms[index] != BASE)


def _measured(candidate: Sequence[Sequence[int]], control: Sequence[Sequence[int]]) -> Measured:
    means = [np.array([np.mean(one) for one in people], np.float64) for people in (candidate, control)]
    return Measured(_rate(candidate), _rate(control), difference(means[0], means[1]))


def _rate(people: Sequence[Sequence[int]]) -> Rate:
    mean = float(np.mean([np.mean(one) for one in people])) if people else None
    return Rate(mean, len(people), sum(map(len, people)))
