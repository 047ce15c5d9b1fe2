"""`POST /v1/rerank` and `/v1/score`: a person's judgement of given texts, in the shapes Jina and vLLM use.

A text is read as an answer to the query, by prefill; its score is the chance that this person would prefer it to
what everyone's average answer is worth: σ(reward).
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, StringConstraints
from scipy.special import expit

from serve.api.context import context_of, error_responses
from serve.api.limits import admit_users, count_tokens
from serve.api.requests import Identifier, PalateOptions, RequestModel
from serve.api.streaming import json_response, while_connected
from serve.api.strict_json import StrictJsonRoute
from serve.engines.protocol import ChatInput, MeasureRequest
from serve.errors import InvalidRequest
from serve.planning import Options

router = APIRouter(tags=["rerank"], route_class=StrictJsonRoute)
MAX_DOCUMENTS = 256
Text = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]


class JudgedRequest(RequestModel):
    """What both operations share."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    user: Identifier | None = Field(None, description="The person who judges; without one, everyone's taste does.")
    safety_identifier: Identifier | None = Field(None, description="The person; goes before `user`.")
    palate: PalateOptions | None = Field(None, description="`strength` and `weights` count here.")


class Document(RequestModel):
    """A text, as an object."""

    text: Text


class RerankRequest(JudgedRequest):
    """The body of `POST /v1/rerank`."""

    query: Text
    documents: list[Text | Document] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    top_n: int | None = Field(None, ge=1, description="How many to return; by default all.")
    return_documents: bool = True


class ScoreRequest(JudgedRequest):
    """The body of `POST /v1/score`."""

    text_1: Text = Field(description="What was asked.")
    text_2: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_DOCUMENTS)] = Field(
        description="The answers to judge."
    )


class DocumentText(BaseModel):
    """A returned text."""

    text: str


class RerankResult(BaseModel):
    """One document's place."""

    index: int
    relevance_score: float
    document: DocumentText | None = None


class RerankUsage(BaseModel):
    """What it cost."""

    total_tokens: int


class RerankResponse(BaseModel):
    """Documents, best first."""

    id: str
    model: str
    usage: RerankUsage
    results: list[RerankResult]
    palate: dict[str, Any]


class ScoreData(BaseModel):
    """One text's score."""

    index: int
    object: str
    score: float


class ScoreResponse(BaseModel):
    """Scores in the order of the texts."""

    id: str
    object: str
    created: int
    model: str
    data: list[ScoreData]
    usage: RerankUsage
    palate: dict[str, Any]


@router.post(
    "/v1/rerank",
    summary="Order texts by a person's taste",
    responses={200: {"model": RerankResponse}, **error_responses(400, 401, 403, 404, 413, 429, 500, 503)},
)
async def rerank(body: RerankRequest, request: Request) -> Response:
    """Order texts by a person's taste, in the shape Jina and vLLM use."""
    context = context_of(request)
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    scores, num_tokens, told = await while_connected(request, _scores(body, body.query, texts, request))
    ranked = sorted(range(len(texts)), key=lambda index: (-scores[index], index))[: body.top_n]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in ranked]
    if body.return_documents:
        results = [{**result, "document": {"text": texts[result["index"]]}} for result in results]
    return json_response(
        {
            "id": context.new_id("rerank"),
            "model": context.config.model.name,
            "usage": {"total_tokens": num_tokens},
            "results": results,
            "palate": told,
        }
    )


@router.post(
    "/v1/score",
    summary="Score texts by a person's taste",
    responses={200: {"model": ScoreResponse}, **error_responses(400, 401, 403, 404, 413, 429, 500, 503)},
)
async def score(body: ScoreRequest, request: Request) -> Response:
    """Score texts by a person's taste, in vLLM's shape."""
    context = context_of(request)
    texts = [body.text_2] if isinstance(body.text_2, str) else body.text_2
    scores, num_tokens, told = await while_connected(request, _scores(body, body.text_1, texts, request))
    return json_response(
        {
            "id": context.new_id("score"),
            "object": "list",
            "created": int(time.time()),
            "model": context.config.model.name,
            "data": [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores)],
            "usage": {"total_tokens": num_tokens},
            "palate": told,
        }
    )


async def _scores(
    body: JudgedRequest, query: str, texts: list[str], request: Request
) -> tuple[list[float], int, dict[str, Any]]:
    context = context_of(request)
    context.check_model(body.model)
    wishes = body.palate or PalateOptions()
    if wishes.users:
        raise InvalidRequest("Texts are judged by one person; name them in 'user'.", param="palate.users")
    persons = context.persons(request, (body.safety_identifier, body.user), [])
    await admit_users(request, persons)
    measured = MeasureRequest(context.new_id("measure"), texts, chat=ChatInput([{"role": "user", "content": query}]))
    rewards, report = await context.pipeline.rewards(
        measured, persons, Options(strength=wishes.strength, weights=wishes.weights)
    )
    count_tokens(request, report.num_tokens)
    return [float(value) for value in expit(rewards.mean)], report.num_tokens, report.to_json()
