"""`palate experiments` from start to stop."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve.artifacts.registry import Registry
from serve.cli import palate
from serve.errors import ConfigurationError
from tests.serve.artifacts_for_tests import make_artifact
from tests.serve.publishing import registry_of
from tests.user_store.samples import completion, event
from user_store.sqlite_store import open_sqlite
from user_store.types import UserKey

MODEL = "scripted-model"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path))
    registry = registry_of(tmp_path, make_artifact("one"), make_artifact("two"))
    registry.publish("one")
    return registry


def run(*arguments: str) -> str:
    result = CliRunner().invoke(palate, ["experiments", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


async def say(url: str, num_people: int) -> None:
    store = open_sqlite(Path(url.removeprefix("sqlite://")))
    for number in range(num_people):
        key, now = UserKey("acme", f"u{number}"), time.time() + 60.0
        await store.put_completion(completion(f"c{number}", key, created_at=now, expires_at=now + 60))
        await store.append_event(event(f"e{number}", key, value=1, completion_ids=(f"c{number}",), created_at=now))
    await store.close()


def test_start_show_stop_and_what_is_kept(registry: Registry, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/palate.db"
    assert "two for 50% of people, one for the others" in run("start", "try", "two")
    asyncio.run(say(url, 60))
    options = ["--url", url, "--model", MODEL]
    shown = run("show", *options)
    assert "100.0%" in shown
    assert "Nothing is decided yet." in shown
    told = json.loads(run("show", *options, "--json"))
    assert told["thumbs_up"]["candidate"]["num_people"] + told["thumbs_up"]["control"]["num_people"] == 60
    assert told["wins"]["difference"]["low"] is None  # infinite is no JSON
    run("stop", *options)
    with pytest.raises(ConfigurationError, match="No experiment is running"):
        run("show", *options)
    kept = json.loads(run("show", "try", *options, "--json"))
    assert kept["experiment"]["candidate"] == "two"
    assert "Nothing is decided yet." in run("show", "try", *options)
    assert registry.experiment(MODEL) is None


def test_names_are_those_of_files(registry: Registry) -> None:
    assert registry.experiment(MODEL) is None
    for name in ("../up", "", "a b"):
        assert CliRunner().invoke(palate, ["experiments", "start", name, "two"]).exit_code == 2
