"""The page's files: what is served, with which headers, how large, and that nothing in them asks another server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from serve.api.application import create_app
from serve.api.context import ApiContext
from serve.api.page import PAGE, REFERENCE
from serve.config import Config, Secrets
from serve.engines.scripted_engine import ScriptedEngine
from serve.metrics import Metrics
from serve.service import LocalService

MAX_BYTES = 200_000
FILES = sorted(path for path in PAGE.rglob("*") if path.is_file())
OURS = [path for path in [*FILES, *REFERENCE.iterdir()] if path.is_file() and "vendor" not in path.parts]
ADDRESS = re.compile(r"https?://[^\s\"'`)]+")
KNOWN = {"http://www.w3.org/2000/svg"}  # the name of a format, never fetched
LOCK = Path(__file__).parents[3] / "deploy" / "page" / "package-lock.json"


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES) <= MAX_BYTES


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(PAGE.parent)))
def test_our_files_name_no_other_server(path: Path) -> None:
    assert set(ADDRESS.findall(path.read_text())) <= KNOWN


@pytest.mark.parametrize("path", [path for path in OURS if path.suffix == ".html"], ids=lambda path: path.parent.name)
def test_nothing_is_inline(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)


@pytest.mark.parametrize("path", [path for path in OURS if path.suffix == ".js"], ids=lambda path: path.name)
def test_our_scripts_make_no_markup_from_strings(path: Path) -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text()
    )


def test_every_file_that_is_named_is_there() -> None:
    for path in OURS:
        for name in re.findall(r"from \"(\.[^\"]+)\"", path.read_text()):
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"
    for name in re.findall(r"(?:src|href)=\"page/([^\"]+)\"", (PAGE / "index.html").read_text()):
        assert (PAGE / name).is_file()


def test_the_vendored_libraries_are_the_locked_ones_with_their_licences() -> None:
    locked = json.loads(LOCK.read_text())["packages"]
    marked = locked["node_modules/marked"]["version"]
    assert f"marked v{marked}" in (PAGE / "vendor" / "marked.esm.js").read_text()[:200]
    assert "Permission is hereby granted" in (PAGE / "vendor" / "marked.LICENSE").read_text()
    swagger = locked["node_modules/swagger-ui-dist"]["version"]
    assert swagger in (REFERENCE / "vendor" / "swagger-ui-bundle.js").read_text()
    assert "Apache License" in (REFERENCE / "vendor" / "swagger-ui.LICENSE").read_text()


async def test_the_page_is_served_with_its_policy(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "trusted-types 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    script = await client.get("/page/app.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "default-src 'none'" in script.headers["content-security-policy"]
    assert (await client.get("/page/../config.py")).status_code == 404
    assert (await client.get("/favicon.ico")).status_code == 200


async def test_an_unchanged_file_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/page/app.js")
    again = await client.get("/page/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_the_docs_have_the_policy_too(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/docs/assets/reference.js", "/docs/assets/vendor/swagger-ui-bundle.js"):
        response = await client.get(path)
        assert response.status_code == 200
        assert "script-src 'self'" in response.headers["content-security-policy"]
    assert "content-security-policy" not in (await client.get("/v1/models")).headers


async def test_the_page_can_be_switched_off(engine: ScriptedEngine) -> None:
    config = Config.model_validate({"http": {"page": False}, "engine": {"kind": "scripted"}})
    app = create_app(ApiContext(LocalService(engine), config, Secrets(), Metrics()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://palate") as client:
        assert (await client.get("/")).status_code == 404
        assert (await client.get("/page/app.js")).status_code == 404
        assert (await client.get("/docs")).status_code == 200
