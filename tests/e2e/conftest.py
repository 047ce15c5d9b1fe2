"""Servers shared by the end-to-end tests: each is started once, and gone before other tests start engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Server, running_server


@pytest.fixture(scope="package")
def scripted_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(Path(tmp_path_factory.mktemp("scripted")), "scripted") as server:
        yield server


@pytest.fixture(scope="package")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings: dict[str, dict[str, object]] = {
        "model": {"max_model_len": 2_048, "tool_parser": "hermes"},
        "engine": {"cpu_kv_cache_gib": 1},
    }
    with running_server(Path(tmp_path_factory.mktemp("vllm")), "vllm", settings) as server:
        yield server


@pytest.fixture(params=["scripted", pytest.param("vllm", marks=pytest.mark.engine)])
def server(request: pytest.FixtureRequest) -> Server:
    """Each engine in turn."""
    running: Server = request.getfixturevalue(f"{request.param}_server")
    return running
