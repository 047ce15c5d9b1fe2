"""The HTTP application in this process, over the scripted engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from serve.api.application import create_app
from serve.api.context import ApiContext
from serve.config import Config, Secrets
from serve.engines.scripted_engine import ScriptedEngine
from serve.metrics import Metrics
from serve.service import LocalService

MODEL = "scripted-model"


@pytest.fixture
def config() -> Config:
    return Config.model_validate({"engine": {"kind": "scripted"}, "model": {"served_name": MODEL}})


@pytest.fixture
async def engine() -> ScriptedEngine:
    engine = ScriptedEngine(MODEL)
    await engine.start()
    return engine


@pytest.fixture
def app(config: Config, engine: ScriptedEngine) -> FastAPI:
    return create_app(ApiContext(LocalService(engine), config, Secrets(), Metrics()))


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://palate") as client:
        yield client
