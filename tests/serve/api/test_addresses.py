"""What decides by address goes by what the router matches by, under a prefix as well."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from serve.api.addresses import is_api, route_path


def nothing(_: Request) -> Response:
    return Response()


CASES = [
    ("/v1/models", "", "/v1/models"),
    ("/palate/v1/models", "/palate", "/v1/models"),  # the prefix stays in the path, as Ray Serve calls an application
    ("/v1/models", "/palate", "/v1/models"),  # a proxy took it off
    ("/palate/palate/v1/models", "/palate", "/palate/v1/models"),
    ("/palatev1/models", "/palate", "/palatev1/models"),
    ("/v1/v1/models", "/v1", "/v1/models"),
    ("/palate/", "/palate", "/"),
]


def scope_of(path: str, prefix: str) -> Scope:
    return {"type": "http", "method": "GET", "path": path, "root_path": prefix}


@pytest.mark.parametrize(("path", "prefix", "expected"), CASES)
def test_it_is_the_address_that_the_router_matches_by(path: str, prefix: str, expected: str) -> None:
    scope = scope_of(path, prefix)
    assert route_path(scope) == expected
    match, found = Route("/{rest:path}", nothing).matches(scope)
    assert (match, f"/{found['path_params']['rest']}") == (Match.FULL, expected)
    assert is_api(scope) == expected.startswith("/v1/")


def test_the_prefix_alone_is_no_address() -> None:
    scope = scope_of("/palate", "/palate")
    assert route_path(scope) == ""
    assert Route("/{rest:path}", nothing).matches(scope)[0] is Match.NONE


def test_without_a_prefix_the_path_is_the_address() -> None:
    assert route_path({"type": "http", "method": "GET", "path": "/v1/models"}) == "/v1/models"
    assert not is_api({"type": "lifespan"})
