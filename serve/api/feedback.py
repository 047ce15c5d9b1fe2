"""`/v1/feedback`: give, list and withdraw feedback."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, Field, StringConstraints, model_validator

from serve.api.context import context_of, error_responses, principal_of
from serve.api.limits import RequestToll
from serve.api.requests import Identifier, Message, RequestModel
from serve.api.streaming import json_response
from serve.api.strict_json import StrictJsonRoute
from serve.engines.protocol import ChatInput
from serve.errors import InvalidRequest
from serve.statements import Statement
from user_store.types import EventFilter, FeedbackEvent, FeedbackKind
from user_store.validation import MAX_COMPLETION_IDS, MAX_TEXT_CHARS

router = APIRouter(tags=["feedback"], route_class=StrictJsonRoute)

CompletionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
Kind = Literal["thumb", "rating", "comparison", "ranking", "comment", "demonstration", "edit", "implicit"]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)]
Index = Annotated[int, Field(strict=True, ge=-1, le=255)]
PersonId = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class FeedbackRequest(RequestModel):
    """One piece of feedback, about completions, about texts given inline, or about a question."""

    kind: Kind = Field(description="What was said.")
    value: Index | Text | list[Index] | None = Field(
        None,
        description="thumb and implicit: 1 or -1; rating: 1 to 5; comparison: index of the one preferred; ranking: "
        "indices, best first; comment: the words; edit and demonstration: the text.",
    )
    completion_id: CompletionId | None = Field(None, description="The completion it is about.")
    completion_ids: list[CompletionId] | None = Field(
        None, max_length=MAX_COMPLETION_IDS, description="The completions that are compared or ranked."
    )
    choice: Annotated[int, Field(ge=0, le=255)] = Field(0, description="Which of a completion's choices it is about.")
    prompt: Text | list[Message] | None = Field(None, description="What the inline texts answer.")
    candidates: list[Text] | None = Field(None, description="Texts given inline.")
    question_id: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="A question from `/v1/users/{id}/questions`; the value is the index of the answer preferred."
    )
    reason: Text | None = Field(None, description="Why, in the person's own words.")
    user: PersonId | None = Field(None, description="Whose feedback; by default, whose completion it is.")
    metadata: dict[str, Any] | None = Field(None, description="Anything to keep with it.")
    idempotency_key: Identifier | None = Field(
        None, min_length=1, description="Sent again, the same key changes nothing; or send it as `Idempotency-Key`."
    )

    @model_validator(mode="after")
    def _one_name_for_completions(self) -> FeedbackRequest:
        if self.completion_id is not None and self.completion_ids:
            raise ValueError("send completion_id or completion_ids, not both")
        return self


class FeedbackReceipt(BaseModel):
    """Proof that feedback is kept."""

    id: str
    duplicate: bool
    posterior_version: int | None = Field(description="null: the posterior follows later.")


class FeedbackObject(BaseModel):
    """One piece of feedback as it is kept."""

    id: str
    object: Literal["feedback"] = "feedback"
    kind: Kind
    created_at: float
    user: str
    completion_ids: list[str]
    value: int | str | list[int] | None
    choice: int
    question_id: str | None
    reason: str | None
    metadata: dict[str, Any]
    inferred: bool
    pending: bool
    withdrawn: bool


class FeedbackList(BaseModel):
    """A page of feedback."""

    object: Literal["list"] = "list"
    data: list[FeedbackObject]
    has_more: bool


class FeedbackDeleted(BaseModel):
    """Proof that feedback no longer counts."""

    id: str
    object: Literal["feedback"] = "feedback"
    deleted: Literal[True] = True
    posterior_version: int | None


IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=256)]


@router.post(
    "/v1/feedback",
    summary="Give feedback",
    response_model=FeedbackReceipt,
    responses=error_responses(400, 401, 403, 404, 409, 410, 413, 429, 500, 503),
)
async def create_feedback(body: FeedbackRequest, request: Request, idempotency_key: IdempotencyKey = None) -> Response:
    """Take feedback; it is durable before the answer, and the person's next answer uses it."""
    context = context_of(request)
    limit = context.config.feedback.max_candidates
    if len(body.candidates or ()) > limit:
        raise InvalidRequest(f"At most {limit} candidates are accepted.", param="candidates")
    user = context.own_name(request, body.user, "user")
    statement = replace(_statement(body, idempotency_key), user=user)
    receipt = await context.open_desk.receive(principal_of(request).tenant, statement, RequestToll(request))
    plain = {
        "id": receipt.id,
        "duplicate": receipt.is_duplicate,
        "posterior_version": receipt.posterior_version,
    }
    return json_response(plain)


def _statement(body: FeedbackRequest, key_from_header: str | None) -> Statement:
    ids = body.completion_ids or ([body.completion_id] if body.completion_id is not None else [])
    prompt = body.prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else None
    if isinstance(prompt, list):
        messages = [message.rendered() for message in prompt]
    return Statement(
        kind=FeedbackKind(body.kind),
        value=body.value,  # type: ignore[arg-type]  # lists of numbers are JSON
        completion_ids=tuple(ids),
        choice=body.choice,
        prompt=None if messages is None else ChatInput(messages),
        candidates=tuple(body.candidates or ()),
        question_id=body.question_id,
        reason=body.reason,
        metadata=body.metadata or {},
        idempotency_key=body.idempotency_key or key_from_header,
    )


@router.get(
    "/v1/feedback",
    summary="List feedback",
    response_model=FeedbackList,
    responses=error_responses(400, 401, 403, 404, 500, 503),
)
async def list_feedback(
    request: Request,
    user: Annotated[PersonId | None, Query(description="Only this person's.")] = None,
    kind: Annotated[Kind | None, Query(description="Only this kind.")] = None,
    since: Annotated[float | None, Query(ge=0, lt=1e11, description="Unix time; only this and later.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[CompletionId | None, Query(description="The last id of the page before.")] = None,
) -> Response:
    """List feedback, oldest first and person by person."""
    user = context_of(request).own_name(request, user, "user")
    try:
        wanted = EventFilter(user, FeedbackKind(kind) if kind else None, since, limit, after)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    page = await context_of(request).open_people.store.list_events(principal_of(request).tenant, wanted)
    return json_response(
        {"object": "list", "data": [feedback_object(event) for event in page.data], "has_more": page.has_more}
    )


@router.delete(
    "/v1/feedback/{feedback_id}",
    summary="Withdraw feedback",
    response_model=FeedbackDeleted,
    responses=error_responses(400, 401, 403, 404, 500, 503),
)
async def delete_feedback(feedback_id: CompletionId, request: Request) -> Response:
    """Withdraw one piece of feedback: it stays in the log, marked, and the posterior forgets it."""
    context = context_of(request)
    user = context.own_name(request, None, "feedback_id")
    receipt = await context.open_desk.withdraw(principal_of(request).tenant, feedback_id, user)
    return json_response(
        {
            "id": receipt.id,
            "object": "feedback",
            "deleted": True,
            "posterior_version": receipt.posterior_version,
        }
    )


def feedback_object(event: FeedbackEvent) -> dict[str, Any]:
    """Render an event; the features it rests on stay inside."""
    return {
        "id": event.id,
        "object": "feedback",
        "kind": event.kind.value,
        "created_at": event.created_at,
        "user": event.key.user,
        "completion_ids": list(event.completion_ids),
        "value": event.value,
        "choice": event.payload.get("choice", 0),
        "question_id": event.payload.get("question_id"),
        "reason": event.reason,
        "metadata": dict(event.metadata),
        "inferred": event.is_inferred,
        "pending": event.is_pending,
        "withdrawn": event.is_withdrawn,
    }
