"""Limits on the way in and out: refusals, OpenAI's `x-ratelimit-…` headers, and what answers took.

The layer admits a request by its key; handlers admit its people and hand over their outputs to be counted.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api.addresses import route_path
from serve.api.context import ApiContext, context_of, principal_of
from serve.api.streaming import refuse
from serve.engines.protocol import Output
from serve.errors import PalateError
from serve.keys import Principal, required_scope
from serve.keys import Scope as KeyScope
from serve.limits import Allowance, Standing
from user_store.types import UserKey


@dataclass(slots=True)
class Meter:
    """What one request took."""

    users: Sequence[UserKey] = ()
    num_tokens: int = 0


class Limits:
    """Admits requests by their keys, tells clients where they stand, and counts what answers took."""

    def __init__(self, app: ASGIApp, context: ApiContext) -> None:
        self._app = app
        self._limiter = context.limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        limiter = self._limiter
        principal: Principal | None = scope.get("state", {}).get("principal")
        if limiter is None or principal is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        counts_tokens = required_scope(scope["method"], route_path(scope)) is KeyScope.INFER
        try:
            allowance = await limiter.admit(principal.key_id, counts_tokens=counts_tokens)
        except PalateError as error:
            await refuse(error, scope, receive, send)
            return
        meter = scope["state"]["meter"] = Meter()
        headers = rate_headers(allowance)

        async def send_with_standing(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        try:
            await self._app(scope, receive, send_with_standing)
        finally:
            if meter.num_tokens:
                await limiter.spend(principal.key_id, meter.users, meter.num_tokens)


async def admit_users(request: Request, users: Sequence[UserKey], *, takes_tokens: bool = True) -> None:
    """Count a request for its people. Raises RateLimited or QuotaExceeded."""
    limiter = context_of(request).limiter
    meter = _meter(request)
    if limiter is not None and meter is not None:
        await limiter.admit_users(users, takes_tokens=takes_tokens)
        meter.users = users


class RequestToll:
    """What a request with feedback costs its key and its person; of words alone it takes no tokens."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def admit(self, person: UserKey, *, takes_tokens: bool) -> None:
        """Count it for the person. Raises RateLimited or QuotaExceeded."""
        limiter = context_of(self._request).limiter
        if takes_tokens and limiter is not None:
            await limiter.check_tokens(principal_of(self._request).key_id)
        await admit_users(self._request, [person], takes_tokens=takes_tokens)

    def count(self, num_tokens: int) -> None:
        """Note tokens that were read."""
        count_tokens(self._request, num_tokens)


def count_tokens(request: Request, num_tokens: int) -> None:
    """Note tokens that a request took."""
    meter = _meter(request)
    if meter is not None:
        meter.num_tokens += num_tokens


async def metered(request: Request, outputs: AsyncGenerator[Output, None]) -> AsyncGenerator[Output, None]:
    """Pass outputs on and count their tokens, the prompt's once; also of an answer that the client broke off."""
    num_prompt_tokens = num_tokens = 0
    try:
        async for output in outputs:
            num_prompt_tokens = max(num_prompt_tokens, output.num_prompt_tokens)
            num_tokens += sum(delta.num_tokens for delta in output.deltas)
            yield output
    finally:
        count_tokens(request, num_prompt_tokens + num_tokens)
        await outputs.aclose()


def rate_headers(allowance: Allowance) -> dict[str, str]:
    """Render where a key stands, as OpenAI does."""
    headers = {}
    standings: tuple[tuple[str, Standing | None], ...] = (
        ("requests", allowance.requests),
        ("tokens", allowance.tokens),
    )
    for name, standing in standings:
        if standing is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(standing.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, standing.remaining))
            headers[f"x-ratelimit-reset-{name}"] = duration(standing.reset_s)
    return headers


def duration(seconds: float) -> str:
    """Render a duration as OpenAI does: `20ms`, `59s`, `6m0s`, `23h59m3s`."""
    if 0 < seconds < 1:
        return f"{math.ceil(1_000 * seconds)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return "".join([f"{hours}h" if hours else "", f"{minutes}m" if hours or minutes else "", f"{rest}s"])


def _meter(request: Request) -> Meter | None:
    meter: Meter | None = request.scope.get("state", {}).get("meter")
    return meter
