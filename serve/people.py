"""People as the request path sees them: their taste before an answer, what is remembered of it afterwards.

Composes the store, one artifact's preferences and the latent index. What cannot be read raises StoreUnavailable: the
caller decides what an answer without a taste is. Knows no HTTP, no Ray and no engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from router.types import Posterior
from serve.artifacts.artifact import Artifact
from serve.conversation import digest_of
from serve.preferences import Preferences
from user_store.errors import Conflict, StoreError, StoreUnavailable
from user_store.folding import catch_up, settle_pending
from user_store.latent_index import LatentIndex
from user_store.store import UserStore
from user_store.types import CompletionRecord, DeletionReceipt, FeedbackEvent, Profile, UserKey, UserState
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
    posterior: Posterior | None  # None: no counting feedback under this artifact


@dataclass(frozen=True, eq=False, slots=True)
class Candidates:
    """One request's candidates, as the engine measured them; N of them."""

    features: NDArray[np.float32]  # (N, P); NaN rows where there are none
    arms: Sequence[str]  # N
    served: Sequence[int]  # the rows served, in the order of the answer's choices
    answers: Sequence[str] = ()  # the texts served, in the same order, if known


class People:
    """Everybody in one store, read with one artifact."""

    def __init__(
        self,
        store: UserStore | None,
        artifact: Artifact,
        *,
        index: LatentIndex | None = None,
        snapshot: Path | None = None,
        completion_ttl_s: float = DEFAULT_COMPLETION_TTL_S,
        keeps_texts: bool = False,
        pause_s: float = PAUSE_AFTER_FAILURE_S,
        clock: Clock = time.time,
    ) -> None:
        """Take an open store, or None and `attach` it later: until then every call raises StoreUnavailable."""
        self._store = store
        self.preferences = Preferences(artifact)
        self.index = index
        self.snapshot = snapshot  # the index on disk
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
    def artifact(self) -> Artifact:
        """The artifact in service."""
        return self.preferences.artifact

    async def taste(self, key: UserKey) -> Taste:
        """Read a person: exactly one read of the store. Raises StoreUnavailable.

        After a failure it fails at once for `pause_s`, so that answers do not wait for a store that is away. A
        posterior that lags behind its log (after a crash, or under a new artifact) is brought up in the background.
        """
        if time.monotonic() < self._closed_until:
            raise StoreUnavailable("the store did not answer a moment ago")
        try:
            state = await self.store.get_state(key)
        except StoreUnavailable:
            self._closed_until = time.monotonic() + self._pause_s
            raise
        if self.is_behind(state):
            self._learn_later(key)
        return Taste(key, state.profile, self.preferences.posterior(state))

    def is_behind(self, state: UserState) -> bool:
        """Whether the stored posterior has not seen the whole log, or is another population's."""
        if not state.position.seq:
            return False
        return not state.is_current or state.posterior is None or state.posterior.population != self.artifact.version

    async def announce(self, key: UserKey, completion_id: str, now: float) -> None:
        """Say whose answer is being made; before its first byte leaves, so that feedback may come at any time."""
        record = CompletionRecord(completion_id, key, created_at=now, expires_at=now + self._completion_ttl_s)
        await self.store.announce_completion(record)

    async def remember(self, record: CompletionRecord) -> None:
        """Keep an answer's candidates, and learn from feedback that arrived before it was stored."""
        waiting = await self.store.put_completion(record)
        settled = [await self.settle(event) for event in waiting]
        if any(settled):
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
            artifact_version=self.artifact.version,
            texts=texts,
            payload=payload,
        )

    async def settle(self, event: FeedbackEvent) -> bool:
        """Give a waiting event its evidence if its completions are stored by now."""
        return await settle_pending(self.store, event, self.preferences.evidence, now=self.clock())

    async def learn(self, key: UserKey) -> UserState:
        """Fold what the posterior has not seen, and move the person in the index."""
        async with self._locks.setdefault(key, asyncio.Lock()):  # in one process nobody need lose a race
            state = await catch_up(self.store, key, self.preferences.model, now=self.clock())
        await self._index(state)
        return state

    async def erase(self, key: UserKey) -> DeletionReceipt:
        """Erase everything about a person, index and its file included; what they send later starts anew."""
        receipt = await self.store.delete_user(key)
        if self.index is not None:
            await self.index.remove(key)
        if self.snapshot is not None:  # the next refresh writes it without them
            await asyncio.to_thread(self.snapshot.unlink, missing_ok=True)
        return receipt

    async def _index(self, state: UserState) -> None:
        if self.index is None:
            return
        latent = self.preferences.latent(state.posterior) if state.posterior else None
        if latent is None:
            await self.index.remove(state.key)
        else:
            await self.index.upsert(state.key, latent)

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
        if self.index is not None:
            await self.index.close()
        if self._store is not None:
            await self._store.close()
