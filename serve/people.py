"""People as the request path sees them: their taste before an answer, what is remembered of it afterwards.

Composes the store with what is in service. What cannot be read raises StoreUnavailable: the caller decides what an
answer without a taste is. Knows no HTTP, no Ray and no engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from router.types import Posterior
from serve.artifacts.artifact import Artifact
from serve.conversation import digest_of
from serve.editions import Edition, InService, Trial
from serve.preferences import Preferences
from user_store.errors import Conflict, StoreError, StoreUnavailable
from user_store.folding import catch_up, fold_log
from user_store.latent_index import LatentIndex
from user_store.store import UserStore
from user_store.types import CompletionRecord, DeletionReceipt, Profile, UserKey, UserState
from user_store.validation import JsonValue

logger = logging.getLogger("palate.people")

PAUSE_AFTER_FAILURE_S = 1.0
DEFAULT_COMPLETION_TTL_S = 30 * 86_400.0
Clock = Callable[[], float]


@dataclass(frozen=True, eq=False, slots=True)
class Taste:
    """What one request may use of a person."""

    key: UserKey
    profile: Profile
    artifact: Artifact  # that reads this person now
    posterior: Posterior | None  # under it; None: no counting feedback
    assignment: tuple[str, str] | None = None  # the running experiment and the person's arm


@dataclass(frozen=True, eq=False, slots=True)
class Candidates:
    """One request's candidates, as the engine measured them; N of them."""

    features: NDArray[np.float32]  # (N, P); NaN rows where there are none
    arms: Sequence[str]  # N
    served: Sequence[int]  # the rows served, in the order of the answer's choices
    answers: Sequence[str] = ()  # the texts served, in the same order, if known
    artifact_version: str | None = None  # that the answer was made with; None: the one in service


class People:
    """Everybody in one store, read with what is in service."""

    def __init__(
        self,
        store: UserStore | None,
        edition: Edition,
        *,
        completion_ttl_s: float = DEFAULT_COMPLETION_TTL_S,
        keeps_texts: bool = False,
        pause_s: float = PAUSE_AFTER_FAILURE_S,
        clock: Clock = time.time,
    ) -> None:
        """Take an open store, or None and `attach` it later: until then every call raises StoreUnavailable."""
        self._store = store
        self.in_service = InService(edition)  # replaced, never changed
        self._leaving: list[LatentIndex] = []
        self.clock = clock
        self._completion_ttl_s = completion_ttl_s
        self._keeps_texts = keeps_texts
        self._pause_s = pause_s
        self._running: dict[UserKey, asyncio.Task[None]] = {}
        self._locks: WeakValueDictionary[UserKey, asyncio.Lock] = WeakValueDictionary()
        self._closed_until = 0.0  # of the reads that answers wait for, on the monotonic clock

    def attach(self, store: UserStore) -> None:
        """Give people the store that could not be reached before."""
        self._store = store

    @property
    def store(self) -> UserStore:
        """The store. StoreUnavailable while it could not be opened."""
        if self._store is None:
            raise StoreUnavailable("the store could not be reached yet; it is tried again in the background")
        return self._store

    @property
    def is_open(self) -> bool:
        """Whether the store was ever reached."""
        return self._store is not None

    @property
    def preferences(self) -> Preferences:
        """The reading of feedback in service; what features mean does not change with it."""
        return self.in_service.current.preferences

    @property
    def artifact(self) -> Artifact:
        """The artifact in service."""
        return self.in_service.current.artifact

    @property
    def index(self) -> LatentIndex | None:
        """The index of tastes in service."""
        return self.in_service.current.index

    @property
    def snapshot(self) -> Path | None:
        """That index on disk."""
        return self.in_service.current.snapshot

    async def adopt(self, edition: Edition) -> None:
        """Put an edition into service; people keep their old pair until their logs are read anew.

        Raises:
            ValueError: it is of another feature space, so that stored features could not be read with it.
        """
        self._check_space(edition)
        before = self.in_service.current
        self.in_service = self.in_service.followed_by(edition)
        await self._let_go(before)

    async def attempt(self, trial: Trial | None) -> None:
        """Begin an experiment, or end it (None); as `adopt`, for the people in it."""
        if trial is not None:
            self._check_space(trial.edition)
        before = self.in_service.trial
        self.in_service = self.in_service.trying(trial)
        if before is not None:
            await self._let_go(before.edition)

    def _check_space(self, edition: Edition) -> None:
        if edition.artifact.feature_space.id != self.artifact.feature_space.id:
            raise ValueError("an edition of another feature space needs other engines; restart the server")

    async def _let_go(self, before: Edition) -> None:
        """Close the index that left before this one, whose last readers may still search it; forget it on disk."""
        free, self._leaving = self._leaving, [index for index in (before.index,) if index is not None]
        for index in free:
            await index.close()
        kept = {edition.snapshot for edition in self.in_service.live()}
        if before.snapshot is not None and before.snapshot not in kept:
            await asyncio.to_thread(before.snapshot.unlink, missing_ok=True)

    async def taste(self, key: UserKey) -> Taste:
        """Read one person; as `tastes`."""
        return (await self.tastes([key]))[0]

    async def tastes(self, keys: Sequence[UserKey]) -> list[Taste]:
        """Read people with one artifact for all: one read of the store each. Raises StoreUnavailable.

        After a failure it fails at once for `pause_s`, so that answers do not wait for a store that is away. A
        posterior that lags behind its log (after a crash, under a new artifact, or with feedback that still waits for
        its answer) is brought up in the background.
        """
        if not keys:
            return []
        if time.monotonic() < self._closed_until:
            raise StoreUnavailable("the store did not answer a moment ago")
        serving = self.in_service
        try:
            states = await asyncio.gather(*(self.store.get_state(key) for key in keys))
        except StoreUnavailable:
            self._closed_until = time.monotonic() + self._pause_s
            raise
        for state in states:
            if serving.is_behind(state):
                self._learn_later(state.key)
        editions = {edition.version: edition for edition in map(serving.reading, states)}
        shared = serving.current if len(editions) != 1 else next(iter(editions.values()))
        posteriors = await asyncio.gather(*(self._posterior(state, shared) for state in states))
        return [
            Taste(state.key, state.profile, shared.artifact, posterior, serving.assignment(state.key))
            for state, posterior in zip(states, posteriors, strict=True)
        ]

    async def _posterior(self, state: UserState, edition: Edition) -> Posterior | None:
        """Read a person of several with the edition they share; from the log where the posterior is of another."""
        is_others = self.in_service.reading(state).version != edition.version
        if state.posterior is not None and is_others:
            folded = await fold_log(self.store, state, edition.preferences.model, now=self.clock())
            state = replace(state, posterior=folded)
        return edition.preferences.posterior(state)

    def is_behind(self, state: UserState) -> bool:
        """Whether the stored posterior has not seen all of the log, settled, or is another population's."""
        return self.in_service.is_behind(state)

    async def announce(self, key: UserKey, completion_id: str, now: float) -> None:
        """Say whose answer is being made; before its first byte leaves, so that feedback may come at any time."""
        record = CompletionRecord(completion_id, key, created_at=now, expires_at=now + self._completion_ttl_s)
        await self.store.announce_completion(record)

    async def remember(self, record: CompletionRecord) -> None:
        """Keep an answer's candidates, and learn from feedback that arrived before it was stored."""
        if await self.store.put_completion(record):
            await self.learn(record.key)

    def record(
        self, key: UserKey, completion_id: str, candidates: Candidates, *, created_at: float
    ) -> CompletionRecord:
        """Make the record of an answer. Candidates without finite features (broken off) are left out.

        ValueError if none is left: then there is nothing to learn from.
        """
        kept = [row for row in range(len(candidates.features)) if np.isfinite(candidates.features[row]).all()]
        order: list[JsonValue] = [kept.index(row) for row in candidates.served if row in kept]
        if not order:
            raise ValueError("no served candidate has features; there is nothing to remember")
        payload: dict[str, JsonValue] = {"feature_space": self.artifact.feature_space.id, "order": order}
        texts: tuple[str, ...] | None = None
        if candidates.answers:
            payload["answers"] = [digest_of(answer) for answer in candidates.answers]
            served = dict(zip(candidates.served, candidates.answers, strict=False))
            texts = tuple(served.get(row, "") for row in kept) if self._keeps_texts else None
        return CompletionRecord(
            completion_id,
            key,
            created_at=created_at,
            expires_at=created_at + self._completion_ttl_s,
            features=np.asarray(candidates.features[kept], np.float32),
            arms=tuple(candidates.arms[row] for row in kept),
            chosen=int(str(order[0])),
            artifact_version=candidates.artifact_version or self.artifact.version,
            texts=texts,
            payload=payload,
        )

    async def learn(self, key: UserKey) -> UserState:
        """Settle what waits, fold what the posterior has not seen, and move the person in the index."""
        edition = self.in_service.meant_for(key)
        async with self._locks.setdefault(key, asyncio.Lock()):  # in one process nobody need lose a race
            state = await catch_up(self.store, key, edition.preferences.model, now=self.clock())
        await self._index(state)
        return state

    async def renew(self) -> int:
        """Read everybody's log anew whose posterior is not of the edition meant for them; return how many.

        Takes half of the time at most, since requests come first. Raises StoreUnavailable.
        """
        num_renewed = 0
        async for tenant in self.store.list_tenants():
            async for key, posterior in self.store.iter_posteriors(tenant):
                if posterior.population != self.in_service.meant_for(key).version:
                    begin = time.monotonic()
                    num_renewed += await self._renew_one(key)
                    await asyncio.sleep(time.monotonic() - begin)
        return num_renewed

    async def _renew_one(self, key: UserKey) -> bool:
        """Read one log anew; False if it cannot be read, which must keep nobody else's from being read."""
        try:
            await self.learn(key)
        except StoreUnavailable:
            raise
        except Conflict:
            return True  # somebody else read it
        except StoreError as error:
            logger.error("a log cannot be read anew: %s; `palate store check` says more", type(error).__name__)
            return False
        return True

    async def erase(self, key: UserKey) -> DeletionReceipt:
        """Erase everything about a person, index and its file included; what they send later starts anew."""
        receipt = await self.store.delete_user(key)
        for edition in self.in_service.live():
            if edition.index is not None:
                await edition.index.remove(key)
            if edition.snapshot is not None:  # the next refresh writes it without them
                await asyncio.to_thread(edition.snapshot.unlink, missing_ok=True)
        return receipt

    async def _index(self, state: UserState) -> None:
        for edition in self.in_service.live():
            if edition.index is None:
                continue
            latent = edition.preferences.latent(state.posterior) if state.posterior else None
            if latent is None:
                await edition.index.remove(state.key)
            else:
                await edition.index.upsert(state.key, latent)

    def _learn_later(self, key: UserKey) -> None:
        if key in self._running:
            return

        async def quietly() -> None:
            try:
                await self.learn(key)
            except (StoreError, Conflict) as error:
                logger.warning("a posterior could not be brought up to date: %s", type(error).__name__)
            finally:
                self._running.pop(key, None)

        self._running[key] = asyncio.get_running_loop().create_task(quietly())

    async def settled(self) -> None:
        """Wait for what runs in the background."""
        await asyncio.gather(*self._running.values())

    async def close(self) -> None:
        """Finish what runs in the background, then close the index and the store."""
        await self.settled()
        indexes = [edition.index for edition in self.in_service.live() if edition.index is not None]
        for index in [*self._leaving, *indexes]:
            await index.close()
        if self._store is not None:
            await self._store.close()
