"""The HTTP application: routes, layers and one place where errors are rendered."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from serve import __version__
from serve.api import chat, completions, feedback, operator, rerank, system, tastes, users
from serve.api.context import ApiContext
from serve.api.limits import Limits
from serve.api.middleware import BodyLimit, Keys, Measured, RequestIds, request_id_of
from serve.api.page import SafeHeaders, add_docs, add_page
from serve.api.streaming import error_headers, json_response
from serve.errors import (
    Conflict,
    Gone,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PalateError,
    StorageUnavailable,
)
from user_store import errors as store_errors

logger = logging.getLogger("palate.api")

UNION_TAGS = {
    "str",
    "int",
    "constrained-str",
    "constrained-int",
    "none",
    "NamedToolChoice",
    "text",
    "json_object",
    "json_schema",
}
DESCRIPTION = """An OpenAI-compatible endpoint in front of one base model.

Errors have OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""


def create_app(context: ApiContext) -> FastAPI:
    """Compose the application around a service."""
    app = FastAPI(
        title="Palate",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.context = context
    for router in (
        chat.router,
        completions.router,
        rerank.router,
        feedback.router,
        tastes.router,  # before users, whose ids may hold slashes
        users.router,
        system.router,
        operator.router,
    ):
        app.include_router(router)
    if context.config.http.page:
        add_page(app)
    add_docs(app)
    _add_error_handlers(app)
    app.add_middleware(SafeHeaders)
    app.add_middleware(BodyLimit, context=context)
    app.add_middleware(Limits, context=context)
    app.add_middleware(Keys, context=context)
    if context.config.http.cors_origins:
        _add_cors(app, context.config.http.cors_origins)
    app.add_middleware(Measured, context=context)
    app.add_middleware(RequestIds)
    return app


def _add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of other origins call the API; without cookies, which it does not use."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-Id"],
        expose_headers=[
            "Retry-After",
            "X-Request-Id",
            "X-Palate-Degraded",
            *(
                f"x-ratelimit-{part}-{what}"
                for part in ("limit", "remaining", "reset")
                for what in ("requests", "tokens")
            ),
        ],
        max_age=3_600,
    )


def _add_error_handlers(app: FastAPI) -> None:
    async def render(request: Request, error: PalateError) -> Response:
        if error.status >= 500:
            logger.error("%s %s: %s", request_id_of(request), type(error).__name__, error.message)
        if isinstance(error, Overloaded):
            request.app.state.context.metrics.refusals.labels("queue").inc()
        return json_response(error.body(), error.status, error_headers(error))

    @app.exception_handler(PalateError)
    async def palate_error(request: Request, error: PalateError) -> Response:
        return await render(request, error)

    @app.exception_handler(store_errors.StoreError)
    async def store_error(request: Request, error: store_errors.StoreError) -> Response:
        if isinstance(error, store_errors.StoreUnavailable):
            path = getattr(request.scope.get("route"), "path", "unmatched")
            request.app.state.context.metrics.store_failures.labels(path).inc()
        return await render(request, _from_store(error))

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        return await render(request, _from_validation(error))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == NotFound.status:
            return await render(request, NotFound(f"There is nothing at {request.url.path}."))
        if error.status_code == MethodNotAllowed.status:
            return await render(request, MethodNotAllowed(f"{request.url.path} does not accept {request.method}."))
        return await render(request, InvalidRequest(str(error.detail)))

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        logger.error("%s failed", request_id_of(request), exc_info=error)
        return await render(request, PalateError("An internal error; the server's log has it under the request id."))


def _from_store(error: store_errors.StoreError) -> PalateError:
    """Say a store's error in HTTP's terms."""
    match error:
        case store_errors.StoreUnavailable():
            return StorageUnavailable("The store of people and feedback does not answer; try again shortly.")
        case store_errors.NotFound():
            return NotFound("There is nothing of that id here.")
        case store_errors.Expired():
            return Gone("What is known of this completion is no longer kept.")
        case store_errors.Conflict():
            return Conflict(str(error))
        case _:
            return PalateError("What is stored cannot be read; `palate store check` names it.", code="store_damaged")


def _from_validation(error: RequestValidationError) -> InvalidRequest:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return InvalidRequest(f"The body is not valid JSON: {first['ctx']['error']}", code="invalid_json")
    if first["loc"] == ("body",) and first["type"] == "model_attributes_type":
        return InvalidRequest("The body must be a JSON object, sent with 'Content-Type: application/json'.")
    # Members of unions stand in the location too; a client knows only its own keys and positions.
    path = [part for part in first["loc"][1:] if part not in UNION_TAGS and not (isinstance(part, str) and "[" in part)]
    param = ".".join(str(part) for part in path) or None
    if first["type"] == "extra_forbidden":
        return InvalidRequest(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return InvalidRequest(
            f"Missing required parameter: '{param or 'body'}'.", param=param, code="missing_parameter"
        )
    message = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"Invalid value for '{param}': {message}" if param else message, param=param)
