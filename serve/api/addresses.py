"""Which address a request is for, as the router sees it: without the prefix that the server may be mounted under.

A layer that decides by address must ask here: `scope["path"]` holds the prefix, so that what is decided by it would not
be about the route that then answers. Knows nothing of what stands at an address.
"""

from __future__ import annotations

from starlette._utils import get_route_path  # what starlette's router matches by; a test holds them together
from starlette.types import Scope

API_PREFIX = "/v1/"


def route_path(scope: Scope) -> str:
    """Return the path below the prefix."""
    return get_route_path(scope)


def is_api(scope: Scope) -> bool:
    """Whether it is one of the API's addresses, which need a key where there are keys."""
    return scope["type"] == "http" and route_path(scope).startswith(API_PREFIX)
