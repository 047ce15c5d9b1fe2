"""What every handler needs: the service, the configuration, and the checks that depend on them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from serve import __version__
from serve.config import Config, Secrets
from serve.errors import InvalidRequest, ModelNotFound
from serve.metrics import Metrics
from serve.people import People
from serve.pipeline import Pipeline
from serve.service import Service
from user_store.types import UserKey

DEFAULT_TENANT = "default"


@dataclass(frozen=True)
class ApiContext:
    """Handed to every handler through the application's state."""

    service: Service
    config: Config
    secrets: Secrets
    metrics: Metrics
    people: People | None = None

    @cached_property
    def pipeline(self) -> Pipeline:
        """The way of every answer."""
        return Pipeline(self.service, self.people, self.config.personalization, self.metrics)

    def persons(self, user: str | None, several: list[str]) -> list[UserKey]:
        """Name whom an answer is for. Raises InvalidRequest for a name nobody can have."""
        try:
            return [UserKey(DEFAULT_TENANT, name) for name in dict.fromkeys(several or ([user] if user else []))]
        except ValueError as error:
            raise InvalidRequest(str(error), param="palate.users" if several else "user") from error

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
