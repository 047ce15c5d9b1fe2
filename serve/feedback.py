"""Feedback on its way in: what was said is checked, given its evidence, made durable, and only then acknowledged.

The person's posterior is brought up to date before the answer, so that the next request already uses it; if that must
wait (a lost race, a store that went away between), the event is safe and the next event or request mends it. What waits
in the spool is brought to the store by `serve.delivery`. Knows no HTTP and no Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np

from serve.artifacts.artifact import Question
from serve.conversation import digest_of, signal_of
from serve.engines.protocol import MeasureRequest
from serve.errors import Gone, InvalidRequest, NotFound, PalateError, PersonalizationUnavailable
from serve.metrics import NO_PROTOTYPE, Metrics
from serve.people import People
from serve.preferences import Rows, served_rows
from serve.questions import question_id
from serve.service import Service
from serve.spooling import SpoolFolder
from serve.statements import (
    WRITINGS,
    Statement,
    check_choices,
    check_indices,
    check_target,
    check_value,
    subject_of,
)
from user_store import errors as store_errors
from user_store.types import (
    AppendReceipt,
    CompletionRecord,
    DeletionReceipt,
    FeedbackEvent,
    FeedbackKind,
    UserKey,
    UserState,
)
from user_store.validation import JsonValue

logger = logging.getLogger("palate.feedback")

MAX_REMARK_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that feedback is on disk."""

    id: str
    is_duplicate: bool = False
    posterior_version: int | None = None  # None: the posterior follows later
    is_spooled: bool = False


class Toll(Protocol):
    """What a piece of feedback costs whom it is from."""

    async def admit(self, person: UserKey, *, takes_tokens: bool) -> None:
        """Let a person give it, or raise RateLimited or QuotaExceeded."""

    def count(self, num_tokens: int) -> None:
        """Note tokens that were read for it."""


class FeedbackDesk:
    """Takes feedback and lets it be withdrawn."""

    def __init__(
        self,
        people: People,
        service: Service,
        metrics: Metrics,
        *,
        keep_texts: bool = False,
        spool: SpoolFolder | None = None,
    ) -> None:
        self.people = people
        self._service = service
        self._metrics = metrics
        self._keep_texts = keep_texts
        self._spool = spool
        self._overhearing: set[asyncio.Task[None]] = set()

    async def receive(self, tenant: str, statement: Statement, toll: Toll | None = None) -> Receipt:
        """Take one piece of feedback; durable when this returns.

        Raises InvalidRequest, NotFound, Gone, PersonalizationUnavailable, what the toll raises, the engine's errors for
        inline texts, and StoreUnavailable, after which the sender must send it again with the same idempotency key.
        """
        check_target(statement)
        check_value(statement)
        records = await self._records(tenant, statement)
        key = _person(tenant, statement, records)
        if records is not None:
            check_choices(statement, records)
        if toll is not None:
            await toll.admit(key, takes_tokens=statement.prompt is not None)
        measured = await self._measure(statement, toll)
        is_paused = await self._is_paused(key)
        event = self._event(key, statement, records, measured, is_paused=bool(is_paused))
        receipt, is_spooled = await self._append(event, is_certain=is_paused is not None)
        self._metrics.feedback.labels(event.kind.value, "duplicate" if receipt.is_duplicate else "new").inc()
        if is_spooled:
            return Receipt(receipt.event_id, receipt.is_duplicate, None, is_spooled=True)
        state = await self._learn(key)
        if event.kind is FeedbackKind.THUMB and not receipt.is_duplicate:
            self._count_thumb(event, statement.choice, records or (), state)
        return Receipt(receipt.event_id, receipt.is_duplicate, _version(state))

    async def withdraw(self, tenant: str, event_id: str, user: str | None = None) -> Receipt:
        """Withdraw one; the posterior forgets it. NotFound if there is none, or none of `user`'s."""
        event = await self.people.store.find_event(tenant, event_id)
        if user not in (None, event.key.user):
            raise NotFound("There is nothing of that id here.")
        await self.people.store.withdraw_event(event.key, event_id)
        state = await self._learn(event.key)
        return Receipt(event_id, posterior_version=_version(state))

    async def erase(self, key: UserKey) -> DeletionReceipt:
        """Erase a person, and what waits of them in this machine's spools: it would come back."""
        num_waiting = 0 if self._spool is None else await self._spool.forget(key)
        receipt = await self.people.erase(key)
        return replace(receipt, events=receipt.events + num_waiting)

    async def overhear(self, key: UserKey, messages: Sequence[Mapping[str, Any]]) -> Receipt | None:
        """Take what a conversation's last turn says of the answer before it, once; None if it says nothing.

        Marked as inferred and of low weight; a remark in it that names an attribute is heard as well.
        """
        signal = signal_of(messages)
        if signal is None:
            return None
        wanted = digest_of(signal.answer)
        records = await self.people.store.list_completions(key, now=self.people.clock())
        for record in sorted(records, key=lambda one: -one.created_at):
            answers = record.payload.get("answers")
            if isinstance(answers, list) and wanted in answers:
                statement = Statement(
                    FeedbackKind.IMPLICIT,
                    signal.value,
                    (record.id,),
                    choice=answers.index(wanted),
                    user=key.user,
                    reason=signal.remark[:MAX_REMARK_CHARS] if self._keep_texts else None,
                    metadata={"signal": signal.kind},
                    idempotency_key=f"implicit:{record.id}",
                )
                return await self.receive(key.tenant, statement)
        return None

    def overhear_later(self, key: UserKey, messages: Sequence[Mapping[str, Any]]) -> None:
        """Start `overhear` in the background; what goes wrong there costs a weak signal and nothing else."""

        async def quietly() -> None:
            try:
                await self.overhear(key, messages)
            except (PalateError, store_errors.StoreError) as error:
                logger.info("a turn could not be read as feedback: %s", type(error).__name__)

        task = asyncio.get_running_loop().create_task(quietly())
        self._overhearing.add(task)
        task.add_done_callback(self._overhearing.discard)

    async def settled(self) -> None:
        """Wait for what was started in the background."""
        await asyncio.gather(*self._overhearing)

    async def _records(self, tenant: str, statement: Statement) -> list[CompletionRecord] | None:
        """Read the completions; None if the store is away and the spool will hold the event meanwhile."""
        now = self.people.clock()
        try:
            return [await self.people.store.get_completion(tenant, name, now=now) for name in statement.completion_ids]
        except store_errors.StoreUnavailable:
            if self._spool is None or statement.user is None:
                raise
            return None
        except store_errors.Expired:
            raise Gone(
                "What is known of this completion is no longer kept; send the prompt and the texts inline instead.",
                param="completion_id",
            ) from None
        except store_errors.NotFound:
            raise NotFound(
                "There is no such completion. Only answers to requests that name a person are remembered.",
                param="completion_id",
            ) from None

    async def _measure(self, statement: Statement, toll: Toll | None) -> Rows | None:
        if statement.question_id is not None:
            editions = self.people.in_service.editions()  # it may have been asked before a publication
            questions = [question for edition in editions for question in edition.artifact.questions]
            question = find_question(questions, statement.question_id)
            check_indices(statement, len(question.answers))
            return question.features.astype(np.float32)
        if statement.prompt is None:
            return None
        written = [str(statement.value)] if statement.kind in WRITINGS else []
        request = MeasureRequest(
            f"measure-{secrets.token_hex(8)}", [*written, *statement.candidates], chat=statement.prompt
        )
        features = await self._service.measure(request)
        if toll is not None:
            toll.count(sum(features.counts))
        if features.feature_space != self.people.artifact.feature_space.id:
            raise PersonalizationUnavailable("Nothing was learned yet that fits the served model.")
        if not all(features.counts):
            raise InvalidRequest("A text without any token cannot be judged.", param="candidates")
        return features.values

    def _event(
        self,
        key: UserKey,
        statement: Statement,
        records: Sequence[CompletionRecord] | None,
        measured: Rows | None,
        *,
        is_paused: bool,
    ) -> FeedbackEvent:
        is_pending = records is None or any(record.is_announced_only for record in records)
        payload: dict[str, JsonValue] = {"choice": statement.choice} if statement.choice else {}
        if is_paused:
            payload["is_paused"], is_pending = True, False
        if statement.question_id is not None:
            payload["question_id"] = statement.question_id
        if is_pending and measured is not None:
            payload |= self.people.preferences.measured_payload(measured)
        if self._keep_texts and statement.prompt is not None:
            messages = cast("list[JsonValue]", statement.prompt.messages)
            payload |= {"messages": messages, "candidates": list(statement.candidates)}
        bare = self._bare_event(key, statement, payload)
        if statement.kind is FeedbackKind.COMMENT:
            is_pending = False  # words need no features
        if is_pending:
            return replace(bare, is_pending=True)
        return replace(bare, evidence=self.people.preferences.evidence(bare, records or (), measured))

    def _bare_event(self, key: UserKey, statement: Statement, payload: Mapping[str, JsonValue]) -> FeedbackEvent:
        is_forgotten = statement.kind in WRITINGS and not self._keep_texts
        try:
            return FeedbackEvent(
                id=f"fb-{secrets.token_hex(12)}",
                key=key,
                kind=statement.kind,
                created_at=self.people.clock(),
                completion_ids=statement.completion_ids,
                value=None if is_forgotten else statement.value,
                reason=statement.reason,
                metadata=statement.metadata,
                payload=payload,
                idempotency_key=statement.idempotency_key,
                subject=subject_of(statement),
                is_inferred=statement.kind is FeedbackKind.IMPLICIT,
            )
        except ValueError as error:
            raise InvalidRequest(str(error)) from error

    async def _is_paused(self, key: UserKey) -> bool | None:
        """Whether learning is paused; None if the store is away, and delivery will see."""
        try:
            return (await self.people.store.get_state(key)).profile.is_learning_paused
        except store_errors.StoreUnavailable:
            if self._spool is None:
                raise
            return None

    async def _append(self, event: FeedbackEvent, *, is_certain: bool) -> tuple[AppendReceipt, bool]:
        """Make it durable, in the store or (True) in the spool; there at once if it is not certain that it counts."""
        if self._spool is None:
            return await self.people.store.append_event(event), False
        if is_certain:
            # If it is written although this fails, delivery will find its id there and add nothing.
            with contextlib.suppress(store_errors.StoreUnavailable):
                return await self.people.store.append_event(event), False
        return await self._spool.add(event), True

    async def _learn(self, key: UserKey) -> UserState | None:
        """Bring the posterior up to date; the event is safe already, so a failure only delays (None)."""
        try:
            with self._metrics.learning_seconds.time():
                state = await self.people.learn(key)
        except store_errors.StoreError as error:
            logger.warning("a posterior follows later: %s", type(error).__name__)
            self._metrics.posterior_updates.labels("later").inc()
            return None
        self._metrics.posterior_updates.labels("now").inc()
        return state

    def _count_thumb(
        self, event: FeedbackEvent, choice: int, records: Sequence[CompletionRecord], state: UserState | None
    ) -> None:
        """Count a thumb by what had been served and to whom it was, for the monitors of harm and fairness."""
        if len(records) != 1 or records[0].is_announced_only:
            return
        rows = served_rows(records[0])
        posterior = self.people.in_service.reading(state).preferences.posterior(state) if state else None
        prototype = NO_PROTOTYPE if posterior is None else str(int(posterior.responsibilities.argmax()))
        arm = records[0].arms[rows[min(choice, len(rows) - 1)]]
        assignment = self.people.in_service.assignment(event.key)
        if assignment is not None:
            self._metrics.experiment_thumbs.labels(*assignment, "up" if event.value == 1 else "down").inc()
        self._metrics.thumbs.labels("up" if event.value == 1 else "down", arm, prototype).inc()


def _version(state: UserState | None) -> int | None:
    """Name the posterior's version: 0 without one, None where it follows later."""
    if state is None:
        return None
    return state.posterior.version if state.posterior else 0


def _person(tenant: str, statement: Statement, records: Sequence[CompletionRecord] | None) -> UserKey:
    users = {record.key.user for record in records or ()} | ({statement.user} if statement.user else set())
    if len(users) > 1:  # as if the completion were unknown: whose it is, is nobody's business
        raise NotFound("This person has no such completion.", param="completion_id")
    try:
        return UserKey(tenant, users.pop() or "")
    except ValueError as error:
        raise InvalidRequest(str(error), param="user") from error


def find_question(questions: Sequence[Question], wanted: str) -> Question:
    """Find a question by its id. NotFound if this artifact does not ask it."""
    for question in questions:
        if question_id(question) == wanted:
            return question
    raise NotFound("There is no such question any more; ask for new ones.", param="question_id")
