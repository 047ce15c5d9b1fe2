"""JSON bodies that can always be encoded as UTF-8 again.

The standard library accepts lone surrogates and NaN, on which tokenizers and encoders fail later; here they are errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pydantic_core
from fastapi import Request, Response
from fastapi.routing import APIRoute


class _StrictJsonRequest(Request):
    async def json(self) -> Any:
        """Parse the body; unlike the standard library, refuse lone surrogates and NaN."""
        body = await self.body()
        try:
            return pydantic_core.from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), body.decode("utf-8", errors="replace"), 0) from error


class StrictJsonRoute(APIRoute):
    """A route whose JSON bodies can always be encoded as UTF-8 again."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Wrap the handler."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_StrictJsonRequest(request.scope, request.receive))

        return handle
