"""`palate users cohorts`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve.jobs.users import users
from tests.serve.api.people import running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two kinds of people, in the store under PALATE_HOME."""

    async def fill() -> None:
        async with running(tmp_path) as palate:
            for number in range(6):
                texts = ["a b c", "there what clear another"]
                for _ in range(4):
                    await palate.say(
                        kind="comparison", user=f"user-{number}", prompt="hi", candidates=texts, value=int(number < 4)
                    )

    asyncio.run(fill())
    config = tmp_path / "palate.yaml"
    config.write_text("engine: {kind: scripted}\n")
    monkeypatch.setenv("PALATE_HOME", str(tmp_path))
    monkeypatch.setenv("PALATE_CONFIG", str(config))
    monkeypatch.delenv("PALATE_STORE_URL", raising=False)
    return tmp_path


def test_cohorts_say_what_they_like_and_name_nobody(home: Path) -> None:
    result = CliRunner().invoke(users, ["cohorts", "--number", "2", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["people"] for row in rows] == [4, 2]
    assert rows[0]["likes"]["long_words"] > 0 > rows[1]["likes"]["long_words"]
    text = CliRunner().invoke(users, ["cohorts", "--number", "2"]).output
    assert "long_words +" in text
    assert "user-" not in text + result.output


def test_another_tenant_has_nobody(home: Path) -> None:
    assert "nobody" in CliRunner().invoke(users, ["cohorts", "--tenant", "other"]).output
