"""Judgements sent to a server in this process, and to ones that misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from serve.cli import palate as command
from serve.errors import EngineUnavailable
from serve.jobs.importing.judgement import Judgement
from serve.jobs.importing.layouts import READERS, read
from serve.jobs.importing.sending import MAX_ATTEMPTS, send_all
from tests.serve.api.people import running
from tests.serve.jobs.importing.cases import COMMUNITY, PRISM, ULTRAFEEDBACK, write_lines

ONE = Judgement("ann", "p", ("a", "b"), "comparison", 0, "import")


def everything(folder: Path) -> list[Judgement]:
    paths: dict[str, list[dict[str, Any]]] = {
        "prism": PRISM,
        "community-alignment": COMMUNITY,
        "ultrafeedback": ULTRAFEEDBACK,
    }
    found = [
        one
        for layout, rows in paths.items()
        for one in read([write_lines(folder / f"{layout}.jsonl", rows)], READERS[layout])
    ]
    return [one for one in found if isinstance(one, Judgement)]


async def test_every_layout_becomes_peoples_feedback_once(tmp_path: Path) -> None:
    judgements = [
        *everything(tmp_path),
        Judgement("ann", "p", ("a", "b"), "rating", 5, "import", choice=1),
        Judgement("ann", "p", ("a b", "there"), "thumb", -1, "import"),
    ]
    seen: list[int] = []
    async with running(tmp_path) as server:
        tally = await send_all(server.client, judgements, 3, seen.append)
        assert (tally.num_new, tally.num_duplicates, tally.refusals.total()) == (len(judgements), 0, 0)
        again = await send_all(server.client, judgements, 3, seen.append)
        assert (again.num_new, again.num_duplicates) == (0, len(judgements))
        assert len(seen) == 2 * len(judgements)
        assert tally.people == {one.user for one in judgements}
        person = await server.see("/v1/users/prism-user7")
        assert (person["num_events"], person["num_counting"]) == (2, 2)
        listed = (await server.see("/v1/feedback?user=community-a3"))["data"]
        assert {row["metadata"]["source"] for row in listed} == {"community-alignment"}


async def test_refusals_are_counted_with_their_reason(tmp_path: Path) -> None:
    bad = Judgement("ann", "p", ("a", "b"), "comparison", 7, "import")
    async with running(tmp_path) as server:
        tally = await send_all(server.client, [bad, ONE], 1, lambda _: None)
    assert tally.num_new == 1
    assert tally.refusals == {"400 The value may only hold indices below 2.": 1}


async def test_a_server_that_is_busy_is_asked_again_and_one_that_is_away_ends_it() -> None:
    replies: Iterator[httpx.Response | Exception] = iter(
        [httpx.Response(429, text="busy"), httpx.ConnectError("away"), httpx.Response(200, json={"duplicate": False})]
    )

    def answer(_request: httpx.Request) -> httpx.Response:
        reply = next(replies)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://palate") as http:
        assert (await send_all(http, [ONE], 1, lambda _: None, pause_s=0.001)).num_new == 1
    asked: list[httpx.Request] = []

    def away(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(503, json={"error": {"message": "no engine"}})

    async with httpx.AsyncClient(transport=httpx.MockTransport(away), base_url="http://palate") as http:
        with pytest.raises(EngineUnavailable, match="503 no engine"):
            await send_all(http, [ONE], 1, lambda _: None, pause_s=0.0001)
    assert len(asked) == MAX_ATTEMPTS


def test_a_dry_run_counts(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "conversations.jsonl", PRISM)
    result = CliRunner().invoke(command, ["import", "prism", str(path), "--dry-run"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "2 judgements of 1 people found" in result.stdout
    nothing = CliRunner().invoke(command, ["import", "ultrafeedback", str(path), "--dry-run"], catch_exceptions=False)
    assert nothing.exit_code == 1
    assert "2 rows not readable" in nothing.stdout
