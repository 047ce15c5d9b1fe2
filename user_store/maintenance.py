"""Work over a whole store: check it, rebuild posteriors from the log, copy it into another store.

Every function walks the people of every tenant with bounded concurrency and tells a callback how far it is. A person's
damage is reported and keeps nobody else back. Safe beside running replicas. Knows no command line.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from user_store.errors import Conflict, CorruptRecord, NotFound
from user_store.folding import MAX_ATTEMPTS, PosteriorModel, fold_log, settled_state
from user_store.store import UserStore
from user_store.transfer import export_user, import_user
from user_store.types import FeedbackEvent, UserKey, UserState

CONCURRENCY = 32
MAX_PROBLEMS = 100
Progress = Callable[[int], object]


@dataclass(slots=True)
class Report:
    """A walk over `people`; `problems` holds at most MAX_PROBLEMS lines, `num_problems` counts all."""

    people: int = 0
    num_problems: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """Note a problem."""
        self.num_problems += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


@dataclass(slots=True)
class CheckReport(Report):
    """What a check found."""

    events: int = 0
    withdrawn: int = 0
    pending: int = 0
    posteriors: int = 0
    stale: int = 0


@dataclass(slots=True)
class RebuildReport(Report):
    """How many posteriors were written."""

    posteriors: int = 0


@dataclass(slots=True)
class CopyReport(Report):
    """What a copy moved, of how many people; duplicates were in the target already."""

    copied: int = 0
    events: int = 0
    duplicates: int = 0
    completions: int = 0
    posteriors: int = 0


async def for_each_person(
    store: UserStore, work: Callable[[UserKey], Awaitable[None]], report: Report, progress: Progress
) -> None:
    """Await `work` for everyone, CONCURRENCY at a time; report whose records it cannot read or write, and go on."""

    async def careful(key: UserKey) -> None:
        name = f"{key.tenant}: person {report.people}"  # never a user id: reports end up in tickets
        report.people += 1
        try:
            await work(key)
        except (CorruptRecord, Conflict) as error:
            report.add(f"{name}: {error}")

    batch: list[UserKey] = []
    async for tenant in store.list_tenants():
        async for key in store.iter_users(tenant):
            batch.append(key)
            if len(batch) == CONCURRENCY:
                await asyncio.gather(*map(careful, batch))
                progress(len(batch))
                batch = []
    await asyncio.gather(*map(careful, batch))
    progress(len(batch))


async def check(store: UserStore, progress: Progress) -> CheckReport:
    """Read everything once; report what is unreadable, missing or stale. Changes nothing."""
    report = CheckReport()

    async def work(key: UserKey) -> None:
        state = await store.get_state(key)
        events = await store.read_log(key)
        _count(report, state, events)
        _check_whole(state, events)
        try:
            if events:
                await store.find_event(key.tenant, events[-1].id)
        except NotFound:
            raise CorruptRecord("the last event cannot be found by its id; send any new event to mend it") from None

    await for_each_person(store, work, report, progress)
    return report


def _count(report: CheckReport, state: UserState, events: list[FeedbackEvent]) -> None:
    report.events += len(events)
    report.withdrawn += sum(event.is_withdrawn for event in events)
    report.pending += sum(event.is_pending for event in events)
    report.posteriors += state.posterior is not None
    if state.position.seq and not state.is_current:
        report.stale += 1


def _check_whole(state: UserState, events: list[FeedbackEvent]) -> None:
    # Events that arrived between the two reads are no fault of the log.
    known = [event.seq for event in events if event.seq <= state.position.seq]
    if known != list(range(1, state.position.seq + 1)):
        raise CorruptRecord(f"the log holds {len(known)} of {state.position.seq} events; restore a backup")


async def rebuild(store: UserStore, model: PosteriorModel, progress: Progress, *, now: float) -> RebuildReport:
    """Settle what waits, and compute every posterior anew from its log."""
    report = RebuildReport()

    async def work(key: UserKey) -> None:
        is_written = await rebuild_person(store, key, model, now=now)
        report.posteriors += is_written  # in one step: the others of the batch add to it as well

    await for_each_person(store, work, report, progress)
    return report


async def rebuild_person(store: UserStore, key: UserKey, model: PosteriorModel, *, now: float) -> bool:
    """Compute one posterior anew; False for a person without events or posterior."""
    for _ in range(MAX_ATTEMPTS):
        state = await settled_state(store, key, model, now=now)
        if state.position.seq == 0 and state.posterior is None:
            return False
        fresh = UserState(key, state.profile, None, state.position)
        posterior = await fold_log(store, fresh, model, now=now)
        try:
            version = state.posterior.version if state.posterior else 0
            await store.put_posterior(key, posterior, expected_version=version)
        except Conflict:
            continue
        return True
    raise Conflict("a person's posterior changed under every attempt to rebuild it; try again", current_version=-1)


async def copy(source: UserStore, target: UserStore, progress: Progress, *, now: float) -> CopyReport:
    """Copy everyone with events, profile, completions and posterior; may be repeated, adds what is missing."""
    report = CopyReport()

    async def work(key: UserKey) -> None:
        receipt = await import_user(target, key, await export_user(source, key, now=now), now=now)
        report.copied += 1
        report.events += receipt.events
        report.duplicates += receipt.duplicates
        report.completions += receipt.completions
        report.posteriors += receipt.has_posterior

    await for_each_person(source, work, report, progress)
    return report
