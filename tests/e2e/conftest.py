"""Servers shared by the end-to-end tests: each is started once, and gone before other tests start engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.e2e.browser import INSTALL, TIMEOUT_MS, Visitor, find_chromium, running_browser
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, started once a module and gone before the next, since Playwright's loop fills the thread."""
    binary = find_chromium()
    if binary is None:
        pytest.skip(f"no Chromium here; install it with: {' '.join(INSTALL)}")
    with running_browser(binary) as browser:
        yield browser


@pytest.fixture
def visitor(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Visitor]:
    """Somebody with a browser of their own on the page; nothing may go wrong in it."""
    server: Server = request.getfixturevalue(f"{getattr(request, 'param', 'scripted')}_server")
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(TIMEOUT_MS)
    visitor = Visitor(context.new_page(), server.base_url)
    visitor.watch()
    yield visitor
    context.close()
    assert visitor.problems == []
