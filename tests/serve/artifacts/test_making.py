"""What commands made, as a version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from serve.artifacts.making import HELD_OUT, Origin, save_new
from serve.artifacts.storage import load, read_manifest
from serve.errors import ConfigurationError
from tests.serve.artifacts.test_storage import manifest_of
from tests.serve.artifacts_for_tests import make_artifact


def test_a_version_is_named_after_its_contents_and_says_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/palate", "fit", "--from", "/home/somebody/secret/a1"])
    artifact = make_artifact()
    folder = save_new(artifact, "fit", Origin((manifest_of(artifact),), {"people": 3}, {"held_out": 0.5}), tmp_path)
    manifest = read_manifest(folder)
    assert folder.name == manifest.version == load(folder).version
    assert folder.name.startswith("fit-")
    assert manifest.command == "palate fit --from a1"
    assert (manifest.parents, manifest.data, manifest.metrics) == (("a1",), {"people": 3}, {"held_out": 0.5})
    with pytest.raises(ConfigurationError, match="a version is written once"):
        save_new(artifact, "fit", Origin(), tmp_path)


def test_whom_an_ancestor_was_fitted_to_cannot_judge(tmp_path: Path) -> None:
    artifact = make_artifact()
    fitted, plain = manifest_of(artifact, data={HELD_OUT: 0.2}), manifest_of(artifact)
    for number, (parents, own, expected) in enumerate(
        [
            ((fitted,), {}, {HELD_OUT: 0.2}),
            ((plain, fitted), {HELD_OUT: 0.5}, {HELD_OUT: 0.2}),
            ((fitted,), {HELD_OUT: 0.1}, {HELD_OUT: 0.1}),
            ((plain,), {}, {}),
        ]
    ):
        folder = save_new(artifact, f"child{number}", Origin(parents, own), tmp_path)
        assert read_manifest(folder).data == expected
