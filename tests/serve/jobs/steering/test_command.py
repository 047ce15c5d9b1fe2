"""`palate steer discover` and `palate steer name`, from a store to a version."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from serve.artifacts.registry import Registry
from serve.artifacts.storage import load, save
from serve.cli import palate
from serve.errors import ConfigurationError
from serve.home import Home
from tests.serve.artifacts.test_storage import manifest_of
from tests.serve.jobs.fit.cases import PARENT, fill
from user_store.sqlite_store import open_sqlite


def run(*arguments: str) -> str:
    result = CliRunner().invoke(palate, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path))
    save(PARENT, manifest_of(PARENT), tmp_path / "artifacts")

    async def prepare() -> None:
        store = open_sqlite(tmp_path / "palate.db")
        await fill(store, 40, 12)
        await store.close()

    asyncio.run(prepare())
    return f"sqlite://{tmp_path}/palate.db"


def test_a_direction_is_found_shown_and_named(tmp_path: Path, url: str) -> None:
    path = tmp_path / "found.json"
    shown = run("steer", "discover", "--url", url, "--version", "a1", "--json", str(path), "--directions", "1")
    report = json.loads(path.read_text())
    (one,) = report["directions"]
    assert one["is_sure"]
    assert f"{one['gain']:.4f}" in shown
    assert one["examples"][0]["prompt"] in shown
    assert report["people"] + report["held_out"] == 40
    folder = Path(run("steer", "name", str(path), "1", "plain", "--flip").strip())
    artifact, manifest = load(folder), Registry(Home(tmp_path)).entry(folder.name).manifest
    assert artifact.population.attribute_names == ("concise", "formal", "plain", "")
    np.testing.assert_allclose(artifact.population.basis[2], -np.array(one["row"]))
    assert (manifest.parents, manifest.data["named"]) == (("a1",), "plain")
    assert manifest.data["held_out_share"] == 0.2  # the others taught the direction
    assert manifest.metrics["gain"] == one["gain"]


def test_what_is_no_discovery_is_refused(tmp_path: Path, url: str) -> None:
    path = tmp_path / "found.json"
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match="is not what `palate steer discover --json` writes"):
        run("steer", "name", str(path), "1", "plain")
    run("steer", "discover", "--url", url, "--version", "a1", "--json", str(path), "--directions", "1")
    with pytest.raises(ConfigurationError, match="holds 1 directions"):
        run("steer", "name", str(path), "2", "plain")
