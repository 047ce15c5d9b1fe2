"""Plain ASGI layers around the API: request ids, metrics, keys and body limits."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api.addresses import is_api, route_path
from serve.api.context import ApiContext
from serve.api.streaming import refuse
from serve.errors import AuthenticationFailed, PermissionDenied, RequestTooLarge
from serve.keys import Principal, required_scope
from serve.logs import FIELDS, current_request_id

access = logging.getLogger("palate.access")
access.setLevel(logging.INFO)  # switched by the configuration, not by the level

REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,128}$")
EVENT_STREAM = "text/event-stream"


class RequestIds:
    """Takes `X-Request-Id` or makes one, and sends it back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.match(given) else f"req-{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        current_request_id.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class Measured:
    """Counts requests and times them, by the route's pattern and never by its values."""

    def __init__(self, app: ASGIApp, context: ApiContext) -> None:
        self._app = app
        self._metrics = context.metrics
        self._says_access = context.config.log.access
        self._tracer = context.tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        status = 499  # nothing was sent: the client went away
        first_byte_s: float | None = None
        last_event_at: float | None = None  # of a stream

        async def send_measured(message: Message) -> None:
            nonlocal status, first_byte_s, last_event_at
            if message["type"] == "http.response.start":
                status = message["status"]
                is_stream = Headers(raw=message["headers"]).get("content-type", "").startswith(EVENT_STREAM)
                last_event_at = begin if is_stream else None
            else:
                now = time.perf_counter()
                if first_byte_s is None:
                    first_byte_s = now - begin
                elif last_event_at is not None and message.get("body"):
                    self._metrics.inter_token_seconds.observe(now - last_event_at)
                if last_event_at is not None:
                    last_event_at = now
            await send(message)

        with self._metrics.requests_running.track_inprogress():
            try:
                with self._tracer.following(Headers(scope=scope)):
                    await self._app(scope, receive, send_measured)
            finally:
                route = scope.get("route")
                path = getattr(route, "path", "unmatched")
                self._metrics.requests.labels(path, status).inc()
                self._metrics.request_seconds.labels(path).observe(time.perf_counter() - begin)
                if first_byte_s is not None:
                    self._metrics.first_byte_seconds.labels(path).observe(first_byte_s)
                if self._says_access:
                    _say_access(scope, path, status, time.perf_counter() - begin, first_byte_s)


def _say_access(scope: Scope, path: str, status: int, seconds: float, first_byte_s: float | None) -> None:
    """Say one line of a request; of whom it is for, the key and the tenant alone."""
    principal: Principal | None = scope.get("state", {}).get("principal")
    fields: dict[str, object] = {
        "method": scope["method"],
        "path": path,
        "status": status,
        "seconds": round(seconds, 6),
    }
    if first_byte_s is not None:
        fields["first_byte_seconds"] = round(first_byte_s, 6)
    if principal is not None:
        fields |= {"tenant": principal.tenant, "key": principal.key_id}
    access.info("request", extra={FIELDS: fields})


class Keys:
    """Finds out who sends a request under `/v1/`, and whether their key may do it; handlers find them in the state."""

    def __init__(self, app: ASGIApp, context: ApiContext) -> None:
        self._app = app
        self._doorkeeper = context.doorkeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if not is_api(scope):
            await self._app(scope, receive, send)
            return
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        principal = self._doorkeeper.admit(given.strip() if scheme.lower() == "bearer" else None)
        if principal is None:
            message = "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'."
            await refuse(AuthenticationFailed(message), scope, receive, send)
            return
        needed = required_scope(scope["method"], route_path(scope))
        if needed is not None and not principal.may(needed):
            message = f"This API key does not have the scope '{needed}' that this needs."
            await refuse(PermissionDenied(message), scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)


class BodyLimit:
    """Reads the body up front, up to the limit; what is larger gets 413 and is not kept."""

    def __init__(self, app: ASGIApp, context: ApiContext) -> None:
        self._app = app
        self._max_bytes = context.config.http.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = RequestTooLarge(f"The body is larger than the {self._max_bytes} bytes this server accepts.")
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length) > self._max_bytes:
            await refuse(error, scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client went away while sending
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                await refuse(error, scope, receive, send)
                return
            if not message.get("more_body"):
                break
        whole: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            if whole is not None:
                message, whole = whole, None
                return message
            return await receive()

        await self._app(scope, replay, send)


def request_id_of(request: Request) -> str:
    """Return the request's id."""
    request_id: str = request.scope["state"]["request_id"]
    return request_id
