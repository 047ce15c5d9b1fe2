"""A server without an artifact takes the first one that is published."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from serve.api.application import create_app
from serve.api.context import ApiContext
from serve.arrival import Arrival, introduce
from serve.artifacts.registry import JOURNAL, Registry, Signature, signature
from serve.config import Config, Secrets
from serve.engines.protocol import ModelInfo
from serve.engines.scripted_engine import ScriptedEngine
from serve.home import Home
from serve.memory import open_memory
from serve.metrics import Metrics
from serve.service import LocalService
from tests.patience import PATIENCE_S, until
from tests.serve.api.people import MODEL
from tests.serve.publishing import SECOND, registry_of, second_artifact

SECTIONS: dict[str, Any] = {
    "engine": {"kind": "scripted"},
    "model": {"served_name": MODEL},
    "personalization": {"publication_check_s": 0.02},
}
COMPARISON: dict[str, Any] = {
    "kind": "comparison",
    "user": "ann",
    "prompt": "hi",
    "candidates": ["a b c", "there what clear another"],
    "value": 1,
}


class Forgetful(LocalService):
    """A service whose engine does not measure, until it is restarted."""

    is_restarted = False

    async def model(self) -> ModelInfo:
        model = await super().model()
        return model if self.is_restarted else ModelInfo(model.name, model.max_model_len, model.has_tools, 0)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return registry_of(tmp_path, second_artifact(MODEL))


@pytest.fixture
async def service() -> AsyncIterator[Forgetful]:
    engine = ScriptedEngine(MODEL, die=lambda: None)
    await engine.start()
    yield Forgetful(engine)
    await engine.shutdown()


@pytest.fixture
async def arrival(tmp_path: Path, registry: Registry, service: Forgetful) -> Arrival:
    """A start while the journal is damaged: there is nothing to read people with."""
    registry.publish(SECOND)
    journal = registry.home.artifacts / JOURNAL
    journal.write_text("{")
    arrival = Arrival(Config.model_validate(SECTIONS), Secrets(), Home(tmp_path), service, Metrics())
    assert await open_memory(arrival.config, arrival.secrets, arrival.home, service, arrival.metrics) is None
    return arrival


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Home]:
    """How often was looked for something new."""
    looks: list[Home] = []

    def counted(home: Home) -> Signature:
        looks.append(home)
        return signature(home)

    monkeypatch.setattr("serve.arrival.signature", counted)
    return looks


async def look_again(looks: list[Home]) -> None:
    """Wait until what was found by a later look has been dealt with."""
    before = len(looks)
    await until(lambda: len(looks) >= before + 2)


def mend(registry: Registry) -> None:
    (registry.home.artifacts / JOURNAL).write_text(json.dumps({MODEL: [SECOND]}))


async def ask(application: FastAPI) -> tuple[str, int]:
    """Ask for an answer and give feedback; return the answer's reason and how the feedback was taken."""
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://palate") as client:
        body = {"model": MODEL, "user": "ann", "messages": [{"role": "user", "content": "hi"}]}
        answer = await client.post("/v1/chat/completions", json=body)
        said = await client.post("/v1/feedback", json=COMPARISON)
    return answer.json()["palate"]["reason"], said.status_code


async def test_a_server_without_an_artifact_takes_the_first_one(
    arrival: Arrival, registry: Registry, service: Forgetful, looks: list[Home]
) -> None:
    service.is_restarted = True
    application = create_app(ApiContext(service, arrival.config, arrival.secrets, arrival.metrics))
    assert await ask(application) == ("no_artifact", 503)
    waiting = asyncio.create_task(arrival.memory())
    await look_again(looks)
    assert not waiting.done()
    mend(registry)
    memory = await asyncio.wait_for(waiting, PATIENCE_S)
    try:
        context = introduce(application, memory)
        assert memory.people.artifact.version == SECOND
        assert await ask(application) == ("no_feedback", 200)
        reason, _ = await ask(application)
        assert reason not in {"no_feedback", "no_artifact"}
        await context.pipeline.shutdown()
        assert 'palate_artifact_info{version="damaged"} 0.0' in arrival.metrics.render().decode()
    finally:
        await memory.close()


async def test_engines_that_measure_nothing_must_restart_first(
    arrival: Arrival, registry: Registry, service: Forgetful, looks: list[Home], caplog: pytest.LogCaptureFixture
) -> None:
    waiting = asyncio.create_task(arrival.memory())
    mend(registry)
    await until(lambda: "Restart the server" in caplog.text)
    await look_again(looks)
    assert not waiting.done()
    assert "palate_artifact_refusals_total 1.0" in arrival.metrics.render().decode()  # said once
    service.is_restarted = True
    memory = await asyncio.wait_for(waiting, PATIENCE_S)
    await memory.close()


@pytest.mark.parametrize("section", [{"enabled": False}, {"artifact": "/elsewhere"}])
def test_nothing_is_expected_where_nothing_published_would_serve(
    tmp_path: Path, service: Forgetful, section: dict[str, Any]
) -> None:
    config = Config.model_validate({**SECTIONS, "personalization": section})
    assert not Arrival(config, Secrets(), Home(tmp_path), service, Metrics()).is_expected
