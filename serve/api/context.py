"""What every handler needs: the service, the configuration, and the checks that depend on them."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from serve import __version__
from serve.config import Config, Secrets
from serve.errors import InvalidRequest, ModelNotFound, PermissionDenied, PersonalizationUnavailable
from serve.feedback import FeedbackDesk
from serve.keys import Doorkeeper, KeyFile, Principal
from serve.limits import Limiter
from serve.metrics import Metrics
from serve.people import People
from serve.pipeline import Pipeline
from serve.service import Service
from serve.tracing import NO_TRACER, Tracer
from user_store.types import UserKey

GATEWAY_HEADER = "X-Palate-Gateway-Secret"


@dataclass(frozen=True)
class ApiContext:
    """Handed to every handler through the application's state."""

    service: Service
    config: Config
    secrets: Secrets
    metrics: Metrics
    people: People | None = None
    desk: FeedbackDesk | None = None
    keys: KeyFile | None = None
    limiter: Limiter | None = None
    tracer: Tracer = NO_TRACER

    @property
    def open_people(self) -> People:
        """People, or PersonalizationUnavailable where nothing was learned for the served model."""
        if self.people is None:
            raise PersonalizationUnavailable("Nothing was learned yet that fits the served model.")
        return self.people

    @property
    def open_desk(self) -> FeedbackDesk:
        """The desk, or PersonalizationUnavailable as above."""
        if self.desk is None:
            raise PersonalizationUnavailable("Nothing was learned yet that fits the served model.")
        return self.desk

    @cached_property
    def doorkeeper(self) -> Doorkeeper:
        """Who may come in."""
        key = self.secrets.api_key
        return Doorkeeper(key.get_secret_value() if key else None, self.keys)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The way of every answer."""
        return Pipeline(self.service, self.people, self.config.personalization, self.metrics, self.tracer)

    def persons(self, request: Request, names: Sequence[str | None], several: list[str]) -> list[UserKey]:
        """Name whom an answer is for: `several`, or the trusted header (empty: nobody), or the first of `names`.

        Raises InvalidRequest for a name nobody can have, PermissionDenied as `own_name`.
        """
        for name in several:
            self.own_name(request, name, "palate.users")
        trusted = self._trusted_name(request)
        single = next((name for name in (names if trusted is None else [trusted]) if name), None)
        tenant = principal_of(request).tenant
        try:
            return [UserKey(tenant, name) for name in dict.fromkeys(several or ([single] if single else []))]
        except ValueError as error:
            raise InvalidRequest(str(error), param="palate.users" if several else "user") from error

    def own_name(self, request: Request, named: str | None, param: str) -> str | None:
        """Return the person whom `param` may name: anybody, unless the gateway says who it is.

        Raises PermissionDenied if that is somebody else, or for a header that is not the gateway's.
        """
        trusted = self._trusted_name(request)
        if trusted is None:
            return named
        if not trusted or named not in (None, trusted):
            message = f"The gateway says who this request is from; '{param}' may name nobody else."
            raise PermissionDenied(message, param=param, code="another_person")
        return trusted

    def _trusted_name(self, request: Request) -> str | None:
        """Return the name that the gateway gives."""
        header, secret = self.config.users.trusted_header, self.secrets.gateway_secret
        names = request.headers.getlist(header) if header else []
        if len(names) > 1:  # one of them may be the client's own
            raise PermissionDenied(f"The header '{header}' may be sent once.", code="another_person")
        name = names[0] if names else None
        if name is None or secret is None:
            return name
        given = request.headers.get(GATEWAY_HEADER, "").encode()
        if not hmac.compare_digest(given, secret.get_secret_value().encode()):
            raise PermissionDenied(f"Only the gateway may send '{header}': '{GATEWAY_HEADER}' is missing or wrong.")
        return name

    @property
    def fingerprint(self) -> str:
        """The `system_fingerprint` of answers."""
        return f"palate-{__version__}"

    def new_id(self, prefix: str) -> str:
        """Make an id nobody can guess."""
        return f"{prefix}-{secrets.token_hex(16)}"

    def check_model(self, name: str) -> None:
        """Raise ModelNotFound unless `name` is served."""
        served = self.config.model.name
        if name != served:
            raise ModelNotFound(f"The model '{name}' is not served here; '{served}' is.", param="model")

    def check_num_choices(self, n: int | None) -> int:
        """Return `n`, within the operator's bound."""
        limit = self.config.http.max_choices
        if (n or 1) > limit:
            raise InvalidRequest(f"n may be at most {limit} here.", param="n")
        return n or 1


def principal_of(request: Request) -> Principal:
    """Return who sent the request."""
    principal: Principal = request.state.principal
    return principal


def context_of(request: Request) -> ApiContext:
    """Return the application's context."""
    context: ApiContext = request.app.state.context
    return context


class ErrorObject(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error, in OpenAI's shape."""

    error: ErrorObject


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the error answers of an operation for the OpenAPI text."""
    return {status: {"model": ErrorBody} for status in statuses}
