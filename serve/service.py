"""What the HTTP API asks of the rest of the server, in one small protocol.

`LocalService` answers from an engine in this process (tests, embedding); `serve.remote.RayService` from replicas.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from serve.engines.best_of import generate
from serve.engines.protocol import Engine, Features, GenerationRequest, MeasureRequest, ModelInfo, Output
from serve.errors import EngineUnavailable


class Service(Protocol):
    """Generates, and says whether it can."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """Generate; closing the generator aborts. Raises PalateError."""

    async def measure(self, request: MeasureRequest) -> Features:
        """Read given answers. Raises PalateError."""

    async def model(self) -> ModelInfo:
        """Describe the model. Raises EngineUnavailable while none is up."""

    async def is_ready(self) -> bool:
        """Tell whether a token can be generated now."""


class LocalService:
    """A service over one engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """Generate; see the protocol."""
        return generate(self._engine, request)

    async def measure(self, request: MeasureRequest) -> Features:
        """Read given answers."""
        return await self._engine.measure(request)

    async def model(self) -> ModelInfo:
        """Describe the model."""
        return self._engine.model

    async def is_ready(self) -> bool:
        """Ask the engine."""
        try:
            await self._engine.check_health()
        except EngineUnavailable:
            return False
        return True
