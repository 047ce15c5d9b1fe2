"""The one place that chooses an engine."""

from __future__ import annotations

from serve.artifacts.registry import usable_artifact
from serve.config import Config
from serve.engines.protocol import Engine
from serve.home import Home
from serve.models import resolve


def create_engine(config: Config, home: Home) -> Engine:
    """Make the configured engine, not yet started; fetch the embedded model if it is missing."""
    if config.engine.kind == "scripted":
        from serve.engines.scripted_engine import ScriptedEngine  # noqa: PLC0415 - not part of a real server

        return ScriptedEngine(config.model.name, config.model.max_model_len or 2_048)
    from serve.engines.vllm_engine import VllmEngine  # noqa: PLC0415 - the scripted engine must work without vLLM

    artifact, _ = usable_artifact(config, home)
    space = artifact.feature_space if artifact else None
    return VllmEngine(config.model, config.engine, resolve(config.model.id, home, quiet=True), space)
