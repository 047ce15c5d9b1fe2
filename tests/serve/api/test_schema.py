"""Schemathesis against the OpenAPI text: no 5xx, and no answer outside the schema."""

from __future__ import annotations

import asyncio
import atexit
import json
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve.api.application import create_app
from serve.api.context import ApiContext
from serve.config import Config, Secrets
from serve.engines.scripted_engine import ScriptedEngine
from serve.home import Home
from serve.memory import open_memory
from serve.metrics import Metrics
from serve.service import LocalService

SNAPSHOT = Path(__file__).parent / "openapi.json"


def _app() -> Any:
    """A server with people, whose store lies in a folder that is gone at exit."""
    folder = tempfile.TemporaryDirectory(prefix="palate-schema-")
    atexit.register(folder.cleanup)
    config = Config.model_validate({"engine": {"kind": "scripted"}, "model": {"served_name": "m"}})
    engine = ScriptedEngine("m", die=lambda: None)
    service, metrics = LocalService(engine), Metrics()
    asyncio.run(engine.start())
    memory = asyncio.run(open_memory(config, Secrets(), Home(Path(folder.name)), service, metrics))
    assert memory is not None
    return create_app(ApiContext(service, config, Secrets(), metrics, people=memory.people, desk=memory.desk))


@schemathesis.serializer("application/x-ndjson")  # type: ignore[untyped-decorator]
def as_lines(_context: Any, value: Any) -> bytes:
    return str(value).encode(errors="replace")


schema = schemathesis.openapi.from_asgi("/openapi.json", _app())


@schema.parametrize()  # type: ignore[untyped-decorator]
@hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
def test_answers_follow_the_schema(case: Any) -> None:
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = "m"  # otherwise almost every example ends at 404
    response = case.call()
    checks = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
    if isinstance(case.body, dict) and case.body.get("stream") is True and response.status_code == 200:
        checks = [not_a_server_error, status_code_conformance]  # events, not the JSON of the schema
    case.validate_response(response, checks=checks)


def test_the_openapi_text_is_the_one_on_record(request: pytest.FixtureRequest) -> None:
    """Compare with the snapshot; to renew it: python -m tests.serve.api.test_schema."""
    assert json.loads(SNAPSHOT.read_text()) == _app().openapi()


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(_app().openapi(), indent=1, sort_keys=True) + "\n")
