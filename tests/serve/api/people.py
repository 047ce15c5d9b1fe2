"""The HTTP application with people, over the scripted engine and a store of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from serve.api.application import create_app
from serve.api.context import ApiContext
from serve.config import Config, Secrets
from serve.engines.scripted_engine import ScriptedEngine
from serve.home import Home
from serve.keys import KeyFile
from serve.memory import Memory, limiter_of, open_memory
from serve.metrics import Metrics
from serve.service import LocalService

MODEL = "scripted-model"


@dataclass(frozen=True)
class Palate:
    """One server in this process, and a client that speaks to it."""

    app: FastAPI
    client: httpx.AsyncClient
    memory: Memory
    context: ApiContext

    async def ask(self, user: str | None = "ann", text: str = "hi", **body: Any) -> dict[str, Any]:
        """Ask, and return the answer once it is remembered."""
        person = {} if user is None else {"user": user}
        messages = [{"role": "user", "content": text}]
        response = await self.client.post(
            "/v1/chat/completions", json={"model": MODEL, "messages": messages, **person, **body}
        )
        assert response.status_code == 200, response.text
        await self.context.pipeline.shutdown()
        answer: dict[str, Any] = response.json()
        return answer

    async def say(self, status: int = 200, **body: Any) -> dict[str, Any]:
        """Give feedback."""
        response = await self.client.post("/v1/feedback", json=body)
        assert response.status_code == status, response.text
        said: dict[str, Any] = response.json()
        return said

    async def see(self, path: str, status: int = 200) -> dict[str, Any]:
        """Get something."""
        response = await self.client.get(path)
        assert response.status_code == status, response.text
        seen: dict[str, Any] = response.json()
        return seen


@asynccontextmanager
async def running(
    folder: Path, secrets: Secrets | None = None, *, key: str | None = None, **sections: dict[str, Any]
) -> AsyncIterator[Palate]:
    """Run a server below `folder`; `sections` lie over the default configuration."""
    engine = ScriptedEngine(MODEL, die=lambda: None)
    await engine.start()
    tree = {"engine": {"kind": "scripted"}, "model": {"served_name": MODEL}, **sections}
    config, home, metrics = Config.model_validate(tree), Home(folder), Metrics()
    service = LocalService(engine)
    memory = await open_memory(config, secrets or Secrets(), home, service, metrics)
    assert memory is not None
    context = ApiContext(
        service,
        config,
        secrets or Secrets(),
        metrics,
        people=memory.people,
        desk=memory.desk,
        keys=KeyFile(home.keys),
        limiter=limiter_of(config, secrets or Secrets(), home, metrics),
    )
    app = create_app(context)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://palate", headers=headers) as client:
            yield Palate(app, client, memory, context)
    finally:
        await context.pipeline.shutdown()
        await memory.close()
        await engine.shutdown()
