"""The commands over artifacts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve.artifacts.storage import save
from serve.cli import palate
from serve.models import DEFAULT_MODEL
from tests.serve.artifacts.test_storage import manifest_of
from tests.serve.artifacts_for_tests import make_artifact


def run(*arguments: str) -> str:
    result = CliRunner().invoke(palate, ["artifacts", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list_show_diff_publish_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path))
    for version in ("one", "two"):
        artifact = make_artifact(version)
        save(artifact, manifest_of(artifact, metrics={"accuracy": len(version)}), tmp_path / "artifacts")
    shipped = next(row for row in json.loads(run("list", "--json")) if row["shipped"])
    assert shipped["model"] == DEFAULT_MODEL.name
    assert shipped["in_service"]
    assert "one serves scripted-model" in run("publish", "one")
    assert "* one" in run("list")
    assert json.loads(run("show", "one", "--json"))["in_service"]
    assert "concise: steers by -0.20 to +0.20" in run("show", "one")
    assert "one -> two" in run("diff", "one", "two")
    assert "files as they should be" in run("verify", "two")
    assert "shipped artifact serves scripted-model again" in run("rollback", "scripted-model")
