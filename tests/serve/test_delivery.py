"""Feedback with a store that fails at chosen moments: what was acknowledged arrives, and counts as it must."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve.delivery import Courier, deliver_forever
from serve.editions import Edition
from serve.engines.scripted_engine import ScriptedEngine
from serve.feedback import FeedbackDesk
from serve.metrics import Metrics
from serve.people import Candidates, People
from serve.preferences import Preferences
from serve.profiles import ProfileChange, change_profile
from serve.service import LocalService
from serve.spooling import SpoolFolder
from serve.statements import Statement
from tests.patience import PATIENCE_S
from tests.serve.artifacts_for_tests import P, make_artifact
from tests.user_store.samples import ANN, NOW, event, features
from user_store.errors import CorruptRecord, StoreUnavailable
from user_store.open import open_store
from user_store.store import UserStore
from user_store.types import FeedbackEvent, FeedbackKind, UserKey

BEN = UserKey(ANN.tenant, "ben")


class Failing:
    """Passes calls on, but for those it is told to fail."""

    def __init__(self, store: UserStore) -> None:
        self._store = store
        self.failures: dict[str, Exception] = {}
        self.num_left: dict[str, int] = {}  # calls that fail before the next one succeeds; without: all
        self.victim: UserKey | None = None  # whose calls fail; without: everybody's

    def fail(self, *names: str, times: int | None = None, error: Exception | None = None) -> None:
        for name in names:
            self.failures[name] = error or StoreUnavailable("away")
            if times is not None:
                self.num_left[name] = times

    def heal(self) -> None:
        self.failures.clear()
        self.num_left.clear()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name not in self.failures:
            return call

        async def failing(*args: Any, **kwargs: Any) -> Any:
            about = args[0][0].key if isinstance(args[0], list) else args[0]
            is_meant = self.victim is None or self.victim == about
            if not is_meant or self.num_left.get(name, 1) <= 0:
                return await call(*args, **kwargs)
            if name in self.num_left:
                self.num_left[name] -= 1
            raise self.failures[name]

        return failing


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Failing]:
    opened = await open_store(f"sqlite://{tmp_path}/palate.db")
    yield Failing(opened)
    await opened.close()


@pytest.fixture
def people(store: Failing) -> People:
    return People(store, Edition(Preferences(make_artifact())), clock=lambda: NOW)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[SpoolFolder]:
    folder = SpoolFolder(tmp_path / "spool")
    yield folder
    await folder.close()


@pytest.fixture
def desk(people: People, spool: SpoolFolder) -> FeedbackDesk:
    service = LocalService(ScriptedEngine("scripted", die=lambda: None))
    return FeedbackDesk(people, service, Metrics(), spool=spool)


@pytest.fixture
def courier(people: People, spool: SpoolFolder) -> Courier:
    return Courier(people, spool, Metrics())


def thumb(value: int, key: UserKey = ANN, **changes: Any) -> Statement:
    return Statement(FeedbackKind.THUMB, value, (f"c-{key.user}",), user=key.user, **changes)


async def answer(people: People, key: UserKey = ANN) -> None:
    """Let somebody have an answer, `c-` and their name, that was chosen from two."""
    found = Candidates(features(1, 2, P), ["base", "steered"], [0])
    await people.remember(people.record(key, f"c-{key.user}", found, created_at=NOW))


async def num_counting(people: People, key: UserKey = ANN) -> int:
    """Count what the posterior rests on, once an answer's background work is done."""
    await people.taste(key)
    await people.settled()
    posterior = (await people.taste(key)).posterior
    return 0 if posterior is None else posterior.num_events


async def log_of(people: People, key: UserKey = ANN) -> list[FeedbackEvent]:
    return await people.store.read_log(key)


OUTAGE = ("get_completion", "get_state", "append_event", "append_events")


@pytest.mark.parametrize("fails", ["get_completion", "attach_evidence", "put_posterior", "list_pending"])
async def test_what_was_spooled_counts_although_the_store_fails_right_after_its_delivery(
    desk: FeedbackDesk, courier: Courier, people: People, store: Failing, spool: SpoolFolder, fails: str
) -> None:
    await answer(people)
    store.fail(*OUTAGE)
    assert (await desk.receive(ANN.tenant, thumb(1))).is_spooled
    store.heal()
    store.fail(fails, times=1)
    assert await courier.deliver() == 1
    assert await spool.size() == 0
    assert await num_counting(people) == 1
    (found,) = await log_of(people)
    assert not found.is_pending


async def test_feedback_counts_although_the_store_failed_before_it_was_settled(
    desk: FeedbackDesk, people: People, store: Failing
) -> None:
    await people.announce(ANN, "c-ann", NOW)
    store.fail("list_pending")
    assert (await desk.receive(ANN.tenant, thumb(1))).posterior_version is None
    with pytest.raises(StoreUnavailable):
        await answer(people)  # it is stored, but what waited for it is not settled
    store.heal()
    assert await num_counting(people) == 1


async def both_say_something_in_an_outage(desk: FeedbackDesk, people: People, store: Failing) -> None:
    """Ann and Ben have an answer each, and their thumbs on it wait in the spool."""
    for key in (ANN, BEN):
        await answer(people, key)
    store.fail(*OUTAGE)
    for key in (ANN, BEN):
        await desk.receive(key.tenant, thumb(1, key))
    store.heal()


async def test_one_persons_damage_keeps_nobody_elses_feedback_back(
    desk: FeedbackDesk,
    courier: Courier,
    people: People,
    store: Failing,
    spool: SpoolFolder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await both_say_something_in_an_outage(desk, people, store)
    store.fail("get_state", error=CorruptRecord("the arrays of a posterior cannot be read"))
    store.victim = ANN
    with caplog.at_level(logging.WARNING, "palate"):
        assert await courier.deliver() == 1
        await courier.deliver()
    assert await num_counting(people, BEN) == 1
    assert await spool.size() == 1  # safe until it can be taken
    assert [record.getMessage() for record in caplog.records] == [
        "feedback of 1 people stays in the spool: CorruptRecord"
    ]
    store.heal()
    assert await courier.deliver() == 1
    assert await num_counting(people) == 1


async def test_delivery_outlives_what_the_spools_own_disk_does(
    courier: Courier, people: People, spool: SpoolFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError("no space"), StoreUnavailable("locked")]
    size = spool.size

    async def failing() -> int:
        if failures:
            raise failures.pop()
        return await size()

    monkeypatch.setattr(spool, "size", failing)
    await spool.add(event("e1"))
    delivering = asyncio.create_task(deliver_forever(courier, 0.001))
    async with asyncio.timeout(PATIENCE_S):
        while failures:  # noqa: ASYNC110 - the loop sends no event
            await asyncio.sleep(0.001)
        await spool.add(event("e2"))
        while len(await log_of(people)) < 2:  # noqa: ASYNC110 - the loop sends no event
            await asyncio.sleep(0.001)
    assert not delivering.done()
    delivering.cancel()
    await asyncio.gather(delivering, return_exceptions=True)


async def test_damage_that_shows_while_learning_keeps_nobody_else_from_learning(
    desk: FeedbackDesk, courier: Courier, people: People, store: Failing
) -> None:
    await both_say_something_in_an_outage(desk, people, store)
    store.fail("read_log", error=CorruptRecord("event 1 cannot be read"))
    store.victim = ANN
    assert await courier.deliver() == 2
    state = await people.store.get_state(BEN)
    assert (state.is_current, state.num_pending) == (True, 0)


async def test_newer_feedback_counts_and_not_what_waited_in_the_spool(
    desk: FeedbackDesk, courier: Courier, people: People, store: Failing
) -> None:
    await answer(people)
    store.fail(*OUTAGE)
    await desk.receive(ANN.tenant, thumb(1))
    store.heal()
    people.clock = lambda: NOW + 1.0
    await desk.receive(ANN.tenant, thumb(-1))
    before = (await people.taste(ANN)).posterior
    assert await courier.deliver() == 1
    after = (await people.taste(ANN)).posterior
    assert before is not None
    assert after is not None
    assert after.evidence.event_ids == before.evidence.event_ids
    assert len(await log_of(people)) == 2


@pytest.mark.parametrize("away", [OUTAGE, ("get_state",)])
async def test_what_is_sent_while_learning_is_paused_never_counts_although_the_pause_could_not_be_seen(
    desk: FeedbackDesk, courier: Courier, people: People, store: Failing, away: tuple[str, ...]
) -> None:
    await answer(people)
    await change_profile(people, ANN, ProfileChange(is_learning_paused=True))
    store.fail(*away)
    assert (await desk.receive(ANN.tenant, thumb(1))).is_spooled
    store.heal()
    assert await courier.deliver() == 1
    await change_profile(people, ANN, ProfileChange(is_learning_paused=False))
    assert await num_counting(people) == 0
    (found,) = await log_of(people)
    assert not found.is_pending
    await desk.receive(ANN.tenant, thumb(1))
    assert await num_counting(people) == 1


async def test_who_is_erased_does_not_return_from_a_spool_of_this_machine(
    desk: FeedbackDesk, courier: Courier, people: People, store: Failing, spool: SpoolFolder, tmp_path: Path
) -> None:
    other = SpoolFolder(tmp_path / "spool")  # of a living process
    await other.add(event("e1"))
    left = SpoolFolder(tmp_path / "spool")
    await left.add(event("e2"))
    await left.close()  # of a dead one
    await spool.add(event("e3"))
    await spool.add(event("e4", BEN))
    await people.store.append_event(event("e5"))
    assert (await desk.erase(ANN)).events == 4
    await courier.deliver()
    await other.deliver(store.append_events)
    await other.close()
    assert not (await people.store.get_state(ANN)).is_known
    assert [one.id for one in await log_of(people, BEN)] == ["e4"]


async def test_feedback_about_an_answer_that_the_store_never_knew_ends_after_a_day(
    desk: FeedbackDesk, courier: Courier, people: People, store: Failing
) -> None:
    store.fail(*OUTAGE)
    await desk.receive(ANN.tenant, thumb(1))
    store.heal()
    await courier.deliver()
    (found,) = await log_of(people)
    assert found.is_pending
    people.clock = lambda: NOW + 2 * 86_400.0
    assert await num_counting(people) == 0
    (found,) = await log_of(people)
    assert not found.is_pending
    assert not people.is_behind(await people.store.get_state(ANN))
