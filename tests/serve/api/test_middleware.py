"""Request ids, keys, body limits and the application's own metrics."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from serve.api.application import create_app
from serve.api.context import ApiContext
from serve.config import Config, Secrets
from serve.engines.scripted_engine import ScriptedEngine
from serve.keys import KeyFile, Scope
from serve.metrics import Metrics
from serve.service import LocalService
from tests.serve.api.conftest import MODEL

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def test_request_ids_are_taken_or_made(client: httpx.AsyncClient) -> None:
    given = await client.get("/health", headers={"X-Request-Id": "abc-1"})
    assert given.headers["X-Request-Id"] == "abc-1"
    made = await client.get("/health", headers={"X-Request-Id": "not allowed\t!"})
    assert made.headers["X-Request-Id"].startswith("req-")


async def test_metrics_name_patterns_and_statuses(client: httpx.AsyncClient) -> None:
    await client.post("/v1/chat/completions", json=BODY)
    await client.get("/v1/models/unknown")
    await client.get("/secret/user-17")
    text = (await client.get("/metrics")).text
    assert 'palate_requests_total{path="/v1/chat/completions",status="200"} 1.0' in text
    assert 'palate_requests_total{path="/v1/models/{model_id:path}",status="404"} 1.0' in text
    assert 'palate_requests_total{path="unmatched",status="404"} 1.0' in text
    assert "user-17" not in text


async def test_the_key_is_asked_for_under_v1_only(config: Config, engine: ScriptedEngine) -> None:
    secrets = Secrets(api_key=SecretStr("right"))
    app = create_app(ApiContext(LocalService(engine), config, secrets, Metrics()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://palate") as client:
        assert (await client.get("/health")).status_code == 200
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}):
            refused = await client.get("/v1/models", headers=header)
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert (await client.get("/v1/models", headers={"Authorization": "Bearer right"})).status_code == 200


async def test_a_prefix_of_all_addresses_opens_no_door(config: Config, engine: ScriptedEngine, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    _, key = file.create("acme", frozenset({Scope.INFER}), now=1.0)
    app = create_app(ApiContext(LocalService(engine), config, Secrets(), Metrics(), keys=file))
    # As Ray Serve calls an application under a `route_prefix`: the prefix stays in the path.
    transport = httpx.ASGITransport(app, root_path="/palate")
    async with httpx.AsyncClient(transport=transport, base_url="http://palate/palate") as client:
        text = {"model": MODEL, "prompt": "hi"}
        for path, body in (("completions", text), ("chat/completions", BODY)):
            assert (await client.post(f"/v1/{path}", json=body)).status_code == 401
            own = {"Authorization": f"Bearer {key}"}
            assert (await client.post(f"/v1/{path}", json=body, headers=own)).status_code == 200
        assert (await client.get("/v1/operator")).status_code == 401
        assert (await client.get("/v1/operator", headers=own)).status_code == 403
        assert "content-security-policy" in (await client.get("/health")).headers
        assert "content-security-policy" not in (await client.get("/v1/models", headers=own)).headers
    bare = httpx.ASGITransport(app, root_path="/palate")
    async with httpx.AsyncClient(transport=bare, base_url="http://palate") as client:
        assert (await client.get("/v1/models")).status_code == 401


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_large_body_gets_413(engine: ScriptedEngine, is_chunked: bool) -> None:
    config = Config.model_validate({"http": {"max_body_bytes": 1_000}, "model": {"served_name": MODEL}})
    app = create_app(ApiContext(LocalService(engine), config, Secrets(), Metrics()))

    async def pieces() -> httpx.AsyncByteStream:  # type: ignore[misc]
        for _ in range(20):
            yield b" " * 100

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://palate") as client:
        content = pieces() if is_chunked else b" " * 2_000
        refused = await client.post("/v1/chat/completions", content=content)
        assert refused.status_code == 413
        assert refused.json()["error"]["code"] == "request_too_large"
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200


async def test_an_engine_that_is_not_ready_is_503(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    assert (await client.get("/ready")).status_code == 200
    await engine.shutdown()
    refused = await client.get("/ready")
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert (await client.get("/health")).status_code == 200
    assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 503


async def test_the_docs_come_from_this_server(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    assert "http://" not in page.replace("http://palate", "")
    assert "https://" not in page
    assert (await client.get("/docs/assets/vendor/swagger-ui-bundle.js")).status_code == 200
