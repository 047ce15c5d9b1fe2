"""`/v1/users/{id}`: what a person may see, decide, take along and erase."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field, StringConstraints

from serve.api.context import context_of, error_responses, principal_of
from serve.api.requests import RequestModel
from serve.api.streaming import json_response
from serve.api.strict_json import StrictJsonRoute
from serve.errors import InvalidRequest
from serve.keys import Scope
from serve.profiles import Portrait, ProfileChange, change_profile, known_state, portray
from serve.questions import next_questions
from user_store.transfer import UserExport, export_lines, export_user, import_user, parse_lines
from user_store.types import Profile, UserKey

router = APIRouter(tags=["users"], route_class=StrictJsonRoute)

NDJSON = "application/x-ndjson"
Attribute = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Level = Annotated[float, Field(ge=-10, le=10)]
# A path, so that an id may hold slashes; `%2F` in a client's URL means one.
PersonId = Annotated[str, Path(min_length=1, max_length=256, description="The person, as `user` names them.")]


class Lesson(BaseModel):
    """What one piece of feedback taught."""

    feedback_id: str
    effect: float


class AttributeObject(BaseModel):
    """What is believed about one named attribute, in logits of a choice per standard deviation of it."""

    name: str
    mean: float
    low: float = Field(description="Of the 95 % interval.")
    high: float
    decided: bool = Field(description="Whether the interval leaves out zero.")
    decision_share: float = Field(description="Its part in what decided past answers.")
    taught_by: list[Lesson]


class ProfileObject(BaseModel):
    """What a person decided."""

    pins: dict[str, float]
    bars: list[str]
    learning_paused: bool


class UserObject(ProfileObject):
    """A person as their model sees them."""

    id: str
    object: Literal["user"] = "user"
    num_events: int = Field(description="Pieces of feedback, withdrawn ones apart.")
    num_counting: int = Field(description="Those the model rests on.")
    artifact: str
    posterior_version: int
    updated_at: float | None
    mixture_weights: list[float]
    attributes: list[AttributeObject]
    unnamed_share: float = Field(description="Part of past decisions that tastes without a name drove.")
    summary: str


class UserPatch(RequestModel):
    """What to change; what is left out stays."""

    pins: dict[Attribute, Level | None] | None = Field(
        None, max_length=256, description="Attribute to level; null takes a pin off. 1 is one full dose."
    )
    bars: list[Attribute] | None = Field(None, max_length=256, description="All attributes that must not be used.")
    learning_paused: bool | None = Field(None, description="Feedback is kept meanwhile, but never counts.")


class UserDeleted(BaseModel):
    """What was erased."""

    id: str
    object: Literal["user"] = "user"
    deleted: Literal[True] = True
    num_events: int
    num_completions: int
    num_posteriors: int
    num_profiles: int


class UserImported(BaseModel):
    """What was added."""

    id: str
    object: Literal["user"] = "user"
    num_events: int
    num_duplicates: int
    num_completions: int
    posterior_version: int


class QuestionObject(BaseModel):
    """Answers to choose from; reply with a comparison that names `question_id` and the index of the one liked best."""

    id: str
    object: Literal["question"] = "question"
    prompt: str
    candidates: list[str]
    information: float = Field(description="What the reply is expected to tell, in nats; at most log n of n texts.")


class QuestionList(BaseModel):
    """Questions, the next one first."""

    object: Literal["list"] = "list"
    data: list[QuestionObject]
    has_more: bool


class NeighborObject(BaseModel):
    """Somebody with a similar taste."""

    object: Literal["neighbor"] = "neighbor"
    distance: float
    user: str | None = Field(description="Only for keys with the scope `admin`.")


class NeighborList(BaseModel):
    """The nearest people, nearest first."""

    object: Literal["list"] = "list"
    data: list[NeighborObject]
    has_more: bool
    num_people: int = Field(description="How many people the index knows.")


def person_key(request: Request, user_id: str) -> UserKey:
    """Name a person of the sender's tenant.

    Raises InvalidRequest for a name nobody can have, PermissionDenied if the gateway says it is somebody else.
    """
    context_of(request).own_name(request, user_id, "user_id")
    try:
        return UserKey(principal_of(request).tenant, user_id)
    except ValueError as error:
        raise InvalidRequest(str(error), param="user_id") from error


@router.get(
    "/v1/users/{user_id:path}/export",
    summary="Everything about a person, as JSON lines",
    response_class=Response,
    responses={200: {"content": {NDJSON: {"schema": {"type": "string"}}}}, **error_responses(400, 401, 403, 404, 503)},
)
async def export(user_id: PersonId, request: Request) -> Response:
    """Export everything: profile, events with their evidence, completions, posterior."""
    people, key = context_of(request).open_people, person_key(request, user_id)
    await known_state(people, key)
    found = await export_user(people.store, key, now=people.clock())
    text = await asyncio.to_thread(lambda: "".join(f"{line}\n" for line in export_lines(found)))
    return Response(text, media_type=NDJSON)


@router.post(
    "/v1/users/{user_id:path}/import",
    summary="Add an export to a person",
    response_model=UserImported,
    responses=error_responses(400, 401, 403, 409, 413, 503),
    openapi_extra={"requestBody": {"required": True, "content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def import_(user_id: PersonId, request: Request) -> Response:
    """Add the events, completions and decisions of an export; the posterior is computed anew. May be repeated."""
    people, key = context_of(request).open_people, person_key(request, user_id)
    try:
        body = await request.body()
        given = await asyncio.to_thread(lambda: parse_lines(key, body.decode().split("\n")))
        # The posterior follows from the events; somebody else's arithmetic is not taken over.
        whole = UserExport(given.profile, given.events, given.completions)
        receipt = await import_user(people.store, key, whole, now=people.clock())
    except ValueError as error:
        raise InvalidRequest(f"The import cannot be used: {error}") from error
    state = await people.learn(key)
    return json_response(
        {
            "id": user_id,
            "object": "user",
            "num_events": receipt.events,
            "num_duplicates": receipt.duplicates,
            "num_completions": receipt.completions,
            "posterior_version": state.posterior.version if state.posterior else 0,
        }
    )


@router.get(
    "/v1/users/{user_id:path}/questions",
    summary="What to ask a person next",
    response_model=QuestionList,
    responses=error_responses(400, 401, 403, 503),
)
async def questions(user_id: PersonId, request: Request, limit: Annotated[int, Query(ge=1, le=20)] = 1) -> Response:
    """Name the most informative questions not yet answered; for somebody new, the opening ones."""
    people, key = context_of(request).open_people, person_key(request, user_id)
    events = await people.store.read_log(key)
    answered = {str(event.payload.get("question_id")) for event in events if not event.is_withdrawn}
    taste = await people.taste(key)
    ranked = next_questions(taste.artifact, taste.posterior, answered, limit + 1)
    data = [
        {
            "id": item.id,
            "object": "question",
            "prompt": item.question.prompt,
            "candidates": list(item.question.answers),
            "information": round(item.information, 6),
        }
        for item in ranked[:limit]
    ]
    return json_response({"object": "list", "data": data, "has_more": len(ranked) > limit})


@router.get(
    "/v1/users/{user_id:path}/neighbors",
    summary="How near other people's tastes are",
    response_model=NeighborList,
    responses=error_responses(400, 401, 403, 404, 503),
)
async def neighbors(user_id: PersonId, request: Request, limit: Annotated[int, Query(ge=1, le=100)] = 10) -> Response:
    """List the nearest people's distances; who they are only for keys that may know."""
    people, key = context_of(request).open_people, person_key(request, user_id)
    state = await known_state(people, key)
    edition = people.in_service.reading(state)
    latent, index = edition.preferences.latent(state.posterior) if state.posterior else None, edition.index
    if index is None or latent is None:
        return json_response({"object": "list", "data": [], "has_more": False, "num_people": 0})
    near = [found for found in await index.search(key.tenant, latent, limit + 2) if found.user != key.user]
    may_see = principal_of(request).may(Scope.ADMIN)
    data = [
        {
            "object": "neighbor",
            "distance": round(found.distance, 6),
            "user": found.user if may_see else None,
        }
        for found in near[:limit]
    ]
    num_people = await index.size(key.tenant)
    return json_response({"object": "list", "data": data, "has_more": len(near) > limit, "num_people": num_people})


@router.get(
    "/v1/users/{user_id:path}",
    summary="What is known about a person",
    response_model=UserObject,
    responses=error_responses(400, 401, 403, 404, 503),
)
async def retrieve(user_id: PersonId, request: Request) -> Response:
    """Show beliefs with their intervals, what taught them, and what the person decided."""
    people, key = context_of(request).open_people, person_key(request, user_id)
    return json_response(_user_object(await portray(people, key)))


@router.patch(
    "/v1/users/{user_id:path}",
    summary="Pin or bar attributes, pause learning",
    response_model=UserObject,
    responses=error_responses(400, 401, 403, 404, 409, 413, 503),
)
async def change(user_id: PersonId, body: UserPatch, request: Request) -> Response:
    """Change what a person decided about their model."""
    people, key = context_of(request).open_people, person_key(request, user_id)
    await change_profile(people, key, ProfileChange(body.pins, body.bars, body.learning_paused))
    return json_response(_user_object(await portray(people, key)))


@router.delete(
    "/v1/users/{user_id:path}",
    summary="Erase a person",
    response_model=UserDeleted,
    responses=error_responses(400, 401, 403, 503),
)
async def erase(user_id: PersonId, request: Request) -> Response:
    """Erase everything about a person, and say what it was; nothing is left to erase the second time."""
    receipt = await context_of(request).open_desk.erase(person_key(request, user_id))
    return json_response(
        {
            "id": user_id,
            "object": "user",
            "deleted": True,
            "num_events": receipt.events,
            "num_completions": receipt.completions,
            "num_posteriors": receipt.posteriors,
            "num_profiles": receipt.profiles,
        }
    )


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "pins": dict(profile.pins),
        "bars": sorted(profile.bars),
        "learning_paused": profile.is_learning_paused,
    }


def _user_object(portrait: Portrait) -> dict[str, Any]:
    state, told = portrait.state, portrait.explanation
    return {
        "id": state.key.user,
        "object": "user",
        **_profile(state.profile),
        "num_events": portrait.num_events,
        "num_counting": portrait.num_counting,
        "artifact": portrait.artifact,
        "posterior_version": state.posterior.version if state.posterior else 0,
        "updated_at": state.posterior.updated_at if state.posterior else None,
        "mixture_weights": list(portrait.mixture_weights),
        "attributes": [
            {
                "name": belief.name,
                "mean": belief.mean,
                "low": belief.low,
                "high": belief.high,
                "decided": belief.is_decided,
                "decision_share": belief.decision_share,
                "taught_by": [{"feedback_id": one.event_id, "effect": one.effect} for one in belief.lessons],
            }
            for belief in told.attributes
        ],
        "unnamed_share": told.unnamed_share,
        "summary": told.text,
    }
