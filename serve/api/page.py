"""The web page at `/` and the API reference at `/docs`: files of this package, and the headers that keep them safe.

Knows nothing of what they show: they are clients of the HTTP API like any other.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api.addresses import is_api

PAGE = Path(__file__).parent.parent / "page"
REFERENCE = PAGE.parent / "reference"  # Swagger UI
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The page never hands a string to anything that would parse it as HTML or code, and so forbids it altogether.
NO_MARKUP_FROM_STRINGS = "; require-trusted-types-for 'script'; trusted-types 'none'"


def add_page(app: FastAPI) -> None:
    """Serve the page at `/`."""
    app.mount("/page", StaticFiles(directory=PAGE), name="page")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=_headers(POLICY + NO_MARKUP_FROM_STRINGS))

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return FileResponse(PAGE / "icon.svg")


def add_docs(app: FastAPI) -> None:
    """Serve the API reference at `/docs`."""
    app.mount("/docs/assets", StaticFiles(directory=REFERENCE), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(REFERENCE / "index.html", headers=_headers(POLICY))


def _headers(policy: str) -> dict[str, str]:
    return {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}


class SafeHeaders:
    """Tells browsers to run and embed nothing that this server did not send as such."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or is_api(scope):
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in SAFE if pair[0] not in given)]
            await send(message)

        await self._app(scope, receive, send_safely)


SAFE = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]
