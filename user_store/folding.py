"""From a person's log to their posterior: what counts, and how several writers bring it up to date together.

The posterior names the log position it has seen, so that any replica can see what is missing and fold it in; the
compare-and-set makes each event count once. So it is with events that wait for their completions: whoever catches up
settles what it can. Knows no mathematics: the preference model comes as `PosteriorModel`.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from user_store.errors import Conflict, CorruptRecord, Expired, NotFound
from user_store.store import UserStore
from user_store.types import (
    CompletionRecord,
    FeedbackEvent,
    LogPosition,
    StoredPosterior,
    UserKey,
    UserState,
    frozen_evidence,
)
from user_store.validation import Arrays

MAX_ATTEMPTS = 64
MAX_WAIT_S = 86_400.0  # an event waits this long for a completion that nobody knows
Evidence = Callable[[FeedbackEvent, Sequence[CompletionRecord]], Arrays | None]


@dataclass(frozen=True, slots=True)
class PosteriorModel:
    """The seam to the preference model.

    `start` gives the prior's arrays; `fold` adds events (all with evidence) to arrays and returns new ones. The order
    of events must not matter beyond rounding. `population` names the prior; with another name everything is refolded.
    `evidence` gathers what a pending event waited for from its completions, None if it can never count.
    """

    population: str
    start: Callable[[], Arrays]
    fold: Callable[[Arrays, Sequence[FeedbackEvent]], Arrays]
    evidence: Evidence


def effective(events: Sequence[FeedbackEvent]) -> list[FeedbackEvent]:
    """Keep the events that count, in the log's order: not withdrawn, with evidence, and the latest of each subject.

    Late ones are set against the others by the time they were said; clocks are asked for nothing else.
    """
    standing = [event for event in events if not event.is_withdrawn]
    latest: dict[str | None, FeedbackEvent] = {}
    for event in standing:
        before = latest.get(event.subject)
        if before is None or not event.is_late or event.created_at >= before.created_at:
            latest[event.subject] = event
    return [event for event in standing if event.evidence and (event.subject is None or latest[event.subject] is event)]


async def catch_up(store: UserStore, key: UserKey, model: PosteriorModel, *, now: float) -> UserState:
    """Settle what waits, and fold whatever the stored posterior has not seen; return the state after it.

    One event costs one read of the state, one of the new events and one write. After a withdrawal, a replacement or
    a new population the whole log is folded again. Conflict after MAX_ATTEMPTS lost races.
    """
    for attempt in range(MAX_ATTEMPTS):
        state = await settled_state(store, key, model, now=now)
        is_same_prior = state.posterior is not None and state.posterior.population == model.population
        if not state.is_known or (state.is_current and (is_same_prior or state.position.seq == 0)):
            return state
        posterior = await fold_log(store, state, model, now=now)
        expected = state.posterior.version if state.posterior else 0
        try:
            version = await store.put_posterior(key, posterior, expected_version=expected)
        except Conflict:
            # Losers of a race wait a little, each differently, or they would meet again at once.
            await asyncio.sleep(random.uniform(0, 0.002 * min(attempt + 1, 10)))  # noqa: S311
            continue
        return replace(state, posterior=replace(posterior, version=version), position=posterior.position)
    raise Conflict("the posterior changed under every attempt to update it; try again", current_version=-1)


async def fold_log(store: UserStore, state: UserState, model: PosteriorModel, *, now: float) -> StoredPosterior:
    """Compute the posterior of the log's end, from the stored one where its history still stands."""
    old = state.posterior
    seen = old.position if old else LogPosition()
    is_extension = (seen.epoch, seen.revision) == (state.position.epoch, state.position.revision)
    if old is not None and is_extension and old.population == model.population:
        arrays, after_seq = old.arrays, seen.seq
    else:
        arrays, after_seq = model.start(), 0
    events = await store.read_log(state.key, after_seq=after_seq)
    # Events that arrived after the state was read may belong to a newer revision; they are left to the next call.
    events = [event for event in events if event.seq <= state.position.seq]
    if counting := effective(events):
        arrays = await asyncio.to_thread(model.fold, arrays, counting)  # a long log takes longer than a token may wait
    return StoredPosterior(arrays, model.population, state.position, updated_at=now)


async def settled_state(store: UserStore, key: UserKey, model: PosteriorModel, *, now: float) -> UserState:
    """Read a person's state once all is settled that can be; one read where nothing waits."""
    state = await store.get_state(key)
    if not state.num_pending:
        return state
    settled = [await settle_pending(store, event, model.evidence, now=now) for event in await store.list_pending(key)]
    return await store.get_state(key) if any(settled) else state


async def settle_pending(store: UserStore, event: FeedbackEvent, evidence: Evidence, *, now: float) -> bool:
    """Give a pending event its evidence if all its completions are stored by now; False if it goes on waiting.

    What can never count, since an answer is not kept any more or says nothing of it, gets empty evidence. A second
    call changes nothing.
    """
    try:
        records = [await store.get_completion(event.key.tenant, name, now=now) for name in event.completion_ids]
    except NotFound:
        if now - event.created_at <= MAX_WAIT_S:
            return False
        records = []
    except Expired:
        records = []
    except CorruptRecord:  # it expires by itself
        return False
    if any(record.is_announced_only and record.key == event.key for record in records):
        return False
    try:
        return await store.attach_evidence(event.key, event.id, _gathered(event, records, evidence))
    except NotFound:  # the person was erased meanwhile
        return False


def _gathered(event: FeedbackEvent, records: Sequence[CompletionRecord], evidence: Evidence) -> Arrays:
    """Gather an event's evidence; empty if it can never count."""
    if not records or any(record.key != event.key for record in records):
        return {}
    try:
        return frozen_evidence(evidence(event, records) or {})
    except (KeyError, ValueError):  # an import may bring anything
        return {}
