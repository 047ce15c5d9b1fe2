"""`/v1/users/{id}/history` and `/map`: a taste over time, and among others without names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from router.types import Array
from serve.api.context import context_of, error_responses
from serve.api.feedback import Kind
from serve.api.streaming import json_response
from serve.api.users import PersonId, person_key
from serve.tastes import Moment, draw_map, trace

router = APIRouter(tags=["users"])


class BeliefObject(BaseModel):
    """A belief about one attribute's weight."""

    mean: float
    low: float = Field(description="Of the 95 % interval.")
    high: float


class MomentObject(BaseModel):
    """What was believed after one piece of feedback."""

    object: Literal["moment"] = "moment"
    feedback_id: str | None = Field(description="null: before the first piece that is listed.")
    kind: Kind | None
    created_at: float | None
    attributes: dict[str, BeliefObject]
    mixture_weights: list[float]


class HistoryObject(BaseModel):
    """A taste over time, oldest first."""

    object: Literal["list"] = "list"
    data: list[MomentObject]


class PrototypeObject(BaseModel):
    """One typical taste."""

    x: float
    y: float
    weight: float = Field(description="How much it speaks for this person.")
    attributes: dict[str, float]


class MapObject(BaseModel):
    """Tastes on a plane."""

    object: Literal["map"] = "map"
    num_people: int = Field(description="How many people the index knows; a sample of them is drawn.")
    axes: list[dict[str, float]] = Field(description="What each of the two directions means, by named attribute.")
    person: list[float] | None
    others: list[list[float]] = Field(description="Everyone else, without ids; nobody where there are fewer than five.")
    prototypes: list[PrototypeObject]


@router.get(
    "/v1/users/{user_id:path}/history",
    summary="How a taste came to be",
    response_model=HistoryObject,
    responses=error_responses(400, 401, 403, 503),
)
async def history(user_id: PersonId, request: Request, limit: Annotated[int, Query(ge=1, le=256)] = 64) -> Response:
    """Tell what was believed after each of the last pieces of feedback that count; empty without any."""
    people, key = context_of(request).open_people, person_key(request, user_id)
    return json_response({"object": "list", "data": [_moment(item) for item in await trace(people, key, limit)]})


@router.get(
    "/v1/users/{user_id:path}/map",
    summary="A map of tastes with a person in it",
    response_model=MapObject,
    responses=error_responses(400, 401, 403, 503),
)
async def taste_map(user_id: PersonId, request: Request) -> Response:
    """Draw tastes on the two directions in which people differ most; nobody on it can be told by name."""
    drawn = await draw_map(context_of(request).open_people, person_key(request, user_id))
    points = drawn.prototypes.tolist()
    return json_response(
        {
            "object": "map",
            "num_people": drawn.num_people,
            "axes": [_rounded(axis) for axis in drawn.axes],
            "person": None if drawn.person is None else _point(drawn.person),
            "others": [_point(row) for row in drawn.others],
            "prototypes": [
                {"x": round(x, 3), "y": round(y, 3), "weight": round(weight, 4), "attributes": _rounded(taste)}
                for (x, y), weight, taste in zip(points, drawn.prototype_weights, drawn.prototype_tastes, strict=True)
            ],
        }
    )


def _moment(moment: Moment) -> dict[str, Any]:
    event = moment.event
    return {
        "object": "moment",
        "feedback_id": event.id if event else None,
        "kind": event.kind.value if event else None,
        "created_at": event.created_at if event else None,
        "attributes": {
            name: {"mean": round(belief.mean, 4), "low": round(belief.low, 4), "high": round(belief.high, 4)}
            for name, belief in moment.attributes.items()
        },
        "mixture_weights": [round(weight, 4) for weight in moment.mixture_weights],
    }


def _point(row: Array) -> list[float]:
    return [round(float(value), 3) for value in row]


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
