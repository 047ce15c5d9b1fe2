"""Health, version, models and metrics: what operators and load balancers ask."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from openai.types import Model
from pydantic import BaseModel

from serve import __version__
from serve.api.context import context_of, error_responses
from serve.api.streaming import json_response
from serve.errors import EngineUnavailable
from serve.metrics import CONTENT_TYPE

router = APIRouter()


class Status(BaseModel):
    """A one-word state."""

    status: str


class Version(BaseModel):
    """What is running."""

    version: str
    model: str
    engine: str


class ModelList(BaseModel):
    """The served models."""

    object: str = "list"
    data: list[Model]


@router.get("/health", tags=["system"], summary="Is the process up?", response_model=Status)
async def health() -> Response:
    """Answer as long as the process does."""
    return json_response({"status": "ok"})


@router.get(
    "/ready",
    tags=["system"],
    summary="Can a token be generated?",
    response_model=Status,
    responses=error_responses(503),
)
async def ready(request: Request) -> Response:
    """Answer 200 if a token can be generated now, 503 if not."""
    if not await context_of(request).service.is_ready():
        raise EngineUnavailable("No engine is ready: it is starting, or being restarted.")
    return json_response({"status": "ready"})


@router.get("/version", tags=["system"], summary="What is running?", response_model=Version)
async def version(request: Request) -> Response:
    """Name the version, the model and the engine."""
    config = context_of(request).config
    return json_response({"version": __version__, "model": config.model.name, "engine": config.engine.kind})


@router.get("/metrics", tags=["system"], summary="Metrics in Prometheus' text format", response_class=Response)
def metrics(request: Request) -> Response:
    """Render all metrics of this node."""
    return Response(context_of(request).metrics.render(), media_type=CONTENT_TYPE)


@router.get(
    "/v1/models", tags=["models"], summary="List models", response_model=ModelList, responses=error_responses(401, 503)
)
async def list_models(request: Request) -> Response:
    """List the served model."""
    return json_response({"object": "list", "data": [await _model(request)]})


@router.get(
    "/v1/models/{model_id:path}",
    tags=["models"],
    summary="Describe a model",
    response_model=Model,
    responses=error_responses(400, 401, 404, 503),
)
async def retrieve_model(model_id: str, request: Request) -> Response:
    """Describe one model."""
    context_of(request).check_model(model_id)
    return json_response(await _model(request))


async def _model(request: Request) -> dict[str, str | int]:
    model = await context_of(request).service.model()
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "palate",
        "max_model_len": model.max_model_len,
    }
