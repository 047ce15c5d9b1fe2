"""`/v1/operator`: what an operator looks at first. Needs the scope `admin`."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from serve import __version__
from serve.api.context import ApiContext, context_of, error_responses, principal_of
from serve.api.streaming import json_response
from serve.artifacts.artifact import Artifact
from serve.overview import Overview, Thumbs, overview

router = APIRouter(tags=["system"])


class ArtifactObject(BaseModel):
    """What was learned from everyone, as it is in service."""

    version: str
    num_prototypes: int
    num_features: int
    attributes: list[str]
    num_questions: int
    refusal: str | None = Field(description="Why the version published last does not serve.")


class ThumbsObject(BaseModel):
    """How many thumbs point where."""

    up: int
    down: int


class CohortObject(BaseModel):
    """What people nearest to one kind of taste get."""

    prototype: int
    attributes: dict[str, float] = Field(description="The kind of taste, by named attribute.")
    num_answers: int
    mean_gain: float | None = Field(description="Of the served answer over the base answer, in logits of a choice.")
    thumbs: ThumbsObject


class OperatorObject(BaseModel):
    """Counts since the server started; take the difference of two for a rate."""

    object: Literal["operator"] = "operator"
    time: float
    version: str
    model: str
    engine: str
    artifact: ArtifactObject | None
    num_people: int | None = Field(description="People of the key's tenant in the latent index.")
    num_requests: int
    num_refused: int = Field(description="Answered with 4xx.")
    num_failed: int = Field(description="Answered with 5xx.")
    num_running: int
    first_byte_p50_s: float | None
    first_byte_p95_s: float | None
    answers: dict[str, int] = Field(description="By whether and why personalized.")
    choices: dict[str, int] = Field(description="By why the winner won.")
    feedback: dict[str, int] = Field(description="By kind.")
    num_candidates: int
    num_served_tokens: int
    num_spent_tokens: int = Field(description="On candidates that were not served.")
    mean_gain: float | None
    thumbs: dict[str, ThumbsObject] = Field(description="By the kind of candidate that was served.")
    cohorts: list[CohortObject]
    worst_prototype: int | None = Field(description="null while too little is known to say.")


@router.get(
    "/v1/operator",
    summary="How the server does, and for whom it does worst",
    response_model=OperatorObject,
    responses=error_responses(401, 403),
)
async def operator(request: Request) -> Response:
    """Sum up this node's metrics for a person to look at."""
    context = context_of(request)
    people = context.people
    num_people = None
    if people is not None and people.index is not None:
        num_people = await people.index.size(principal_of(request).tenant)
    artifact = people.artifact if people is not None else None
    found = await asyncio.to_thread(lambda: overview(context.metrics.render().decode()))
    return json_response({**_head(context), "num_people": num_people, **_counts(found, artifact)})


def _head(context: ApiContext) -> dict[str, Any]:
    config = context.config
    plain: dict[str, Any] = {
        "object": "operator",
        "time": time.time(),
        "version": __version__,
        "model": config.model.name,
        "engine": config.engine.kind,
        "artifact": None,
    }
    if context.people is not None:
        serving = context.people.in_service
        artifact, population = serving.current.artifact, serving.current.artifact.population
        plain["artifact"] = {
            "version": artifact.version,
            "num_prototypes": population.num_prototypes,
            "num_features": population.num_features,
            "attributes": [name for name in population.attribute_names if name],
            "num_questions": len(artifact.questions),
            "refusal": serving.refusal or None,
        }
    return plain


def _counts(found: Overview, artifact: Artifact | None) -> dict[str, Any]:
    return {
        "num_requests": found.num_requests,
        "num_refused": found.num_refused,
        "num_failed": found.num_failed,
        "num_running": found.num_running,
        "first_byte_p50_s": found.first_byte_s[0],
        "first_byte_p95_s": found.first_byte_s[1],
        "answers": found.answers,
        "choices": found.choices,
        "feedback": found.feedback,
        "num_candidates": found.num_candidates,
        "num_served_tokens": found.num_served_tokens,
        "num_spent_tokens": found.num_spent_tokens,
        "mean_gain": found.mean_gain,
        "thumbs": {arm: _thumbs(thumbs) for arm, thumbs in found.thumbs.items()},
        "cohorts": [
            {
                "prototype": one.prototype,
                "attributes": _tastes(artifact, one.prototype),
                "num_answers": one.num_answers,
                "mean_gain": one.mean_gain,
                "thumbs": _thumbs(one.thumbs),
            }
            for one in found.cohorts
        ],
        "worst_prototype": found.worst,
    }


def _thumbs(thumbs: Thumbs) -> dict[str, int]:
    return {"up": thumbs.up, "down": thumbs.down}


def _tastes(artifact: Artifact | None, prototype: int) -> dict[str, float]:
    if artifact is None or prototype >= artifact.population.num_prototypes:
        return {}
    mean, names = artifact.population.means[prototype], artifact.population.attribute_names
    return {name: round(float(mean[row]), 4) for row, name in enumerate(names) if name}
