"""Answers over time: server-sent events, and giving up when the client does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve.engines.protocol import Output
from serve.errors import AuthenticationFailed, GenerationFailed, PalateError

T = TypeVar("T")
Events = Callable[[AsyncIterator[Output]], AsyncIterator[bytes]]
DONE = b"data: [DONE]\n\n"
_encoder = msgspec.json.Encoder()


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Render JSON without going through pydantic again."""
    return Response(_encoder.encode(body), status_code=status, media_type="application/json", headers=headers)


def error_headers(error: PalateError) -> dict[str, str]:
    """Headers that go with an error."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, AuthenticationFailed):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


async def refuse(error: PalateError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error, in place of the application."""
    await json_response(error.body(), error.status, error_headers(error))(scope, receive, send)


def event(body: Any) -> bytes:
    """Render one server-sent event."""
    return b"data: " + _encoder.encode(body) + b"\n\n"


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, but cancel it and raise ClientDisconnect when the client goes away.

    The body must have been read: what the server then receives can only be the disconnect.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def event_stream(
    request: Request, outputs: AsyncGenerator[Output, None], events: Events, headers: Mapping[str, str] | None = None
) -> Response:
    """Stream `events(outputs)`.

    The first output is awaited before the status is sent, so an error that comes at once has its own status; a later
    one becomes an error event.
    """
    try:
        first = await while_connected(request, anext(outputs))
    except BaseException:
        await outputs.aclose()
        raise
    body = _guarded(events(_chain(first, outputs)), outputs)
    all_headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})}
    return StreamingResponse(body, media_type="text/event-stream", headers=all_headers)


async def _chain(first: Output, rest: AsyncGenerator[Output, None]) -> AsyncGenerator[Output, None]:
    yield first
    async for output in rest:
        yield output


async def _guarded(events: AsyncIterator[bytes], outputs: AsyncGenerator[Output, None]) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in events:
            yield chunk
        yield DONE
    except PalateError as error:
        yield event(error.body())
    except asyncio.CancelledError:
        raise
    except Exception:
        yield event(GenerationFailed("The answer broke off because of an internal error.").body())
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # already running its own clean-up
            await outputs.aclose()
