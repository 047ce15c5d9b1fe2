"""The store's commands do what they print, and fail in one line."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve.jobs.store import store, store_group
from tests.user_store.models import ADDING, D
from tests.user_store.samples import NOW, event, features
from user_store.open import open_store
from user_store.sqlite_store import connect
from user_store.types import UserKey


def call(*arguments: str, has_model: bool = True) -> Result:
    group = store_group((lambda: ADDING) if has_model else None)
    return CliRunner().invoke(group, list(arguments), env={"PALATE_STORE_URL": ""})


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with three people and no posteriors."""
    url = f"sqlite://{tmp_path}/palate.db"

    async def fill() -> None:
        opened = await open_store(url)
        for number in range(3):
            key = UserKey("acme", f"user{number}")
            await opened.append_event(event(f"e{number}", key, created_at=NOW, evidence={"x": features(number, D)}))
        await opened.close()

    asyncio.run(fill())
    return url


def test_check_counts_and_rebuild_mends(url: str) -> None:
    before = call("check", "--url", url)
    assert before.exit_code == 0
    assert "3 people, 3 events (0 withdrawn, 0 pending)" in before.output
    assert "0 posteriors, 3 behind their log" in before.output
    assert "3 posteriors rebuilt" in call("rebuild", "--url", url).output
    assert "3 posteriors, 0 behind their log" in call("check", "--url", url).output


def damage(url: str) -> None:
    """Make the event of the second of three people unreadable."""
    with closing(connect(Path(url.removeprefix("sqlite://")))) as connection:
        connection.execute("UPDATE events SET body = '{' WHERE id = 'e1'")


@pytest.mark.parametrize(
    ("command", "said"),
    [("check", "3 people"), ("rebuild", "2 posteriors rebuilt"), ("copy", "2 people, 2 events copied")],
)
def test_damage_is_named_and_keeps_nobody_elses_data_back(url: str, tmp_path: Path, command: str, said: str) -> None:
    damage(url)
    places = ["--from", url, "--to", f"sqlite://{tmp_path}/copy.db"] if command == "copy" else ["--url", url]
    result = call(command, *places)
    assert result.exit_code == 1
    assert said in result.output
    assert "problem: acme: person 1: " in result.output
    assert "1 problems" in result.output
    assert "user1" not in result.output


def test_copy_moves_everyone_once(url: str, tmp_path: Path) -> None:
    target = f"sqlite://{tmp_path}/copy.db"
    assert "3 people, 3 events copied, 0 were there already" in call("copy", "--from", url, "--to", target).output
    assert "3 people, 0 events copied, 3 were there already" in call("copy", "--from", url, "--to", target).output
    assert "3 people, 3 events" in call("check", "--url", target).output


def test_migrate_says_where_the_store_stands(url: str) -> None:
    assert "schema 1 is current" in call("migrate", "--url", url).output
    with closing(sqlite3.connect(url.removeprefix("sqlite://"))) as connection:
        connection.execute("PRAGMA user_version = 99")
    result = call("migrate", "--url", url)
    assert result.exit_code == 1
    assert "install a newer palate" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--url", "mysql://x"], "must start with sqlite:"),
        (["check", "--url", "redis://127.0.0.1:1"], "check that it runs"),
        (["copy", "--from", "sqlite:/a", "--to", "sqlite:/a"], "same store"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_without_a_url_it_is_the_servers_store_with_the_servers_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path))
    monkeypatch.delenv("PALATE_STORE_URL", raising=False)
    config = tmp_path / "palate.yaml"
    config.write_text("engine: {kind: scripted}\n")
    monkeypatch.setenv("PALATE_CONFIG", str(config))
    asyncio.run(open_and_close(f"sqlite://{tmp_path}/palate.db"))
    result = CliRunner().invoke(store, ["rebuild"])
    assert (result.exit_code, "1 posteriors rebuilt" in result.output) == (0, True), result.output


async def open_and_close(url: str) -> None:
    opened = await open_store(url)
    await opened.append_event(event("e1", UserKey("acme", "ann"), reason="longer words, please"))
    await opened.close()


def test_rebuild_without_a_model_says_so(url: str) -> None:
    result = call("rebuild", "--url", url, has_model=False)
    assert (result.exit_code, "no preference model" in result.output) == (1, True)
