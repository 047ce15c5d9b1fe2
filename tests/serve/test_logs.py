"""Lines carry the request they belong to, as text or JSON; access lines name no person."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.config import LogConfig
from serve.logs import FIELDS, ROOT, configure_logs, current_request_id
from tests.serve.api.people import running


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    logger = logging.getLogger(ROOT)
    before = (logger.handlers, logger.level, logger.propagate)
    yield
    logger.handlers, logger.level, logger.propagate = before


async def test_lines_carry_their_request_also_in_tasks() -> None:
    stream = io.StringIO()
    configure_logs(LogConfig(format="json", level="info"), stream)
    logger = logging.getLogger("palate.x")

    async def work(name: str) -> None:
        current_request_id.set(name)
        await asyncio.sleep(0)
        logger.info("done %s", name, extra={FIELDS: {"number": 3}})

    await asyncio.gather(work("req-a"), work("req-b"))
    logger.info("no request")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("request_id") for line in lines] == ["req-a", "req-b", None]
    assert lines[0] == {
        "time": lines[0]["time"],
        "level": "info",
        "logger": "palate.x",
        "message": "done req-a",
        "request_id": "req-a",
        "number": 3,
    }
    assert lines[0]["time"].endswith("+00:00")


def test_text_has_the_same_and_levels_hold() -> None:
    stream = io.StringIO()
    configure_logs(LogConfig(), stream)
    logging.getLogger("palate.x").info("unsaid")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("palate.x").exception("failed", extra={FIELDS: {"status": 500}})
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("ERROR palate.x - failed status=500")
    assert rest[-1] == "ValueError: why"
    assert "unsaid" not in stream.getvalue()


async def test_access_lines_name_no_person(tmp_path: Path) -> None:
    stream = io.StringIO()
    configure_logs(LogConfig(format="json"), stream)
    async with running(tmp_path, log={"access": True}) as palate:
        await palate.ask("erika-mustermann", "my secret question")
        await palate.client.get("/v1/users/erika-mustermann", headers={"X-Request-Id": "abc-1"})
    lines = [json.loads(line) for line in stream.getvalue().splitlines() if "palate.access" in line]
    assert [(line["path"], line["status"], line["tenant"]) for line in lines] == [
        ("/v1/chat/completions", 200, "default"),
        ("/v1/users/{user_id:path}", 404, "default"),
    ]
    assert lines[1]["request_id"] == "abc-1"
    assert all(line["seconds"] >= line["first_byte_seconds"] > 0 for line in lines)
    assert "erika" not in stream.getvalue()
    assert "secret" not in stream.getvalue()
