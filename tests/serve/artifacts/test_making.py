"""What commands made, as a version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from serve.artifacts.making import Origin, save_new
from serve.artifacts.storage import load, read_manifest
from serve.errors import ConfigurationError
from tests.serve.artifacts_for_tests import make_artifact


def test_a_version_is_named_after_its_contents_and_says_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/palate", "fit", "--from", "/home/somebody/secret/a1"])
    artifact = make_artifact()
    folder = save_new(artifact, "fit", Origin(("a1",), {"people": 3}, {"held_out": 0.5}), tmp_path)
    manifest = read_manifest(folder)
    assert folder.name == manifest.version == load(folder).version
    assert folder.name.startswith("fit-")
    assert manifest.command == "palate fit --from a1"
    assert (manifest.parents, manifest.data, manifest.metrics) == (("a1",), {"people": 3}, {"held_out": 0.5})
    with pytest.raises(ConfigurationError, match="a version is written once"):
        save_new(artifact, "fit", Origin(), tmp_path)
