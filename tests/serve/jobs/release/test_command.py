"""`palate evaluate release`, and what publishing makes of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from serve.artifacts.registry import Registry
from serve.artifacts.rulings import read_ruling
from serve.artifacts.storage import save
from serve.cli import palate
from serve.errors import ConfigurationError
from serve.home import Home
from serve.jobs.release.command import NOT_BETTER
from tests.serve.artifacts.test_storage import manifest_of
from tests.serve.artifacts_for_tests import make_artifact
from tests.serve.jobs.fit.cases import PARENT, fill, knowing
from tests.serve.jobs.release.test_served import report
from user_store.sqlite_store import open_sqlite

NUM_PEOPLE = 110


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("people") / "palate.db"

    async def prepare() -> None:
        store = open_sqlite(path)
        await fill(store, NUM_PEOPLE, 12)
        await store.close()

    asyncio.run(prepare())
    return f"sqlite://{path}"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path))
    registry = Registry(Home(tmp_path))
    for artifact in (PARENT, make_artifact("mute"), knowing()):
        save(artifact, manifest_of(artifact), registry.home.artifacts)
    return registry


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(palate, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def released(url: str, version: str) -> dict[str, Any]:
    code, output = run("evaluate", "release", version, "--url", url, "--json")
    ruling: dict[str, Any] = json.loads(output)
    assert code == (0 if ruling["is_passed"] else NOT_BETTER)
    return ruling


def test_only_what_was_found_better_replaces_what_serves(registry: Registry, store_url: str) -> None:
    run("artifacts", "publish", "a1")  # nothing serves this model yet
    with pytest.raises(ConfigurationError, match="palate evaluate release knowing"):
        registry.publish("knowing")
    ruling = released(store_url, "knowing")
    assert ruling["is_passed"]
    assert ruling["against"] == "a1"
    assert ruling["metrics"]["num_people"] == NUM_PEOPLE  # neither was fitted to anybody
    assert ruling["metrics"]["log_loss"]["difference"]["high"] < 0.0
    registry.publish("knowing")
    back = released(store_url, "a1")
    assert not back["is_passed"]
    assert "predictions are worse" in back["reasons"][0]
    with pytest.raises(ConfigurationError, match="should not replace knowing: its predictions are worse"):
        registry.publish("a1")
    run("artifacts", "publish", "a1", "--force")
    last = registry.history()[-1]
    assert (last["version"], last["before"], last["is_forced"]) == ("a1", "knowing", True)
    assert "predictions are worse" in last["objection"]
    assert "FORCED: a1 should not replace knowing" in run("artifacts", "history")[1]


def test_a_ruling_is_about_what_served_then(registry: Registry, store_url: str) -> None:
    registry.publish("a1")
    assert released(store_url, "knowing")["is_passed"]
    registry.publish("mute", is_forced=True)
    with pytest.raises(ConfigurationError, match="was not compared with mute"):
        registry.publish("knowing")


def test_a_ruling_is_about_the_very_files(registry: Registry, store_url: str) -> None:
    registry.publish("a1")
    assert released(store_url, "knowing")["is_passed"]
    ruling = read_ruling(registry.home.artifacts, "knowing")
    assert ruling is not None
    replace(ruling, fingerprint="of other files").save(registry.home.artifacts)
    with pytest.raises(ConfigurationError, match="was not compared"):
        registry.publish("knowing")


def test_those_a_candidate_was_fitted_to_do_not_judge_it(registry: Registry, store_url: str) -> None:
    registry.publish("a1")
    fitted = make_artifact("fitted")
    save(fitted, manifest_of(fitted, data={"held_out_share": 0.2}), registry.home.artifacts)
    num_judges = released(store_url, "fitted")["metrics"]["num_people"]
    assert 8 <= num_judges <= 40
    nobody = make_artifact("nobody")
    save(nobody, manifest_of(nobody, data={"held_out_share": 0.0}), registry.home.artifacts)
    with pytest.raises(ConfigurationError, match="No held-out person"):
        run("evaluate", "release", "nobody", "--url", store_url)


def test_there_must_be_something_else_to_compare_with(registry: Registry, store_url: str) -> None:
    with pytest.raises(ConfigurationError, match="Nothing serves scripted-model yet"):
        run("evaluate", "release", "knowing", "--url", store_url)
    registry.publish("knowing")
    with pytest.raises(ConfigurationError, match="knowing serves already"):
        run("evaluate", "release", "knowing", "--url", store_url)


def test_what_simulated_people_are_served_counts_too(registry: Registry, store_url: str, tmp_path: Path) -> None:
    registry.publish("a1")
    paths = [str(tmp_path / name) for name in ("knowing.json", "a1.json")]
    options = ["--url", store_url, "--simulated", paths[0], "--simulated-base", paths[1]]
    Path(paths[1]).write_text(json.dumps(report("a1", [0.5, 0.6, 0.7])))
    Path(paths[0]).write_text(json.dumps(report("knowing", [0.6, 0.7, 0.9])))
    code, output = run("evaluate", "release", "knowing", *options)
    assert code == 0
    assert "3 simulated people after 3 pieces of feedback, best of 4" in output
    Path(paths[0]).write_text(json.dumps(report("knowing", [0.1, 0.2, 0.3])))
    code, output = run("evaluate", "release", "knowing", *options, "--json")
    ruling = json.loads(output)
    assert (code, ruling["is_passed"]) == (NOT_BETTER, False)
    assert "simulated people are served worse" in ruling["reasons"][0]
    assert ruling["metrics"]["simulated"]["num_people"] == 3
    code, _ = run("evaluate", "release", "knowing", *options[:4])
    assert code == 2
