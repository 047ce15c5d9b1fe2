"""Aiming: directions turned by what steering was seen to move."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from router.types import Array
from serve.artifacts.artifact import Artifact
from serve.artifacts.storage import load, save
from serve.cli import palate
from serve.jobs.learning import aim
from tests.serve.artifacts.test_storage import manifest_of
from tests.serve.artifacts_for_tests import make_artifact

D = 5


def spaces(seed: int) -> tuple[Array, Array]:
    """A metric and a response, (D, D)."""
    roots = np.random.default_rng(seed).normal(size=(2, D, D))
    metric, response = roots @ roots.transpose(0, 2, 1) + 0.5 * np.eye(D)
    return metric, response


def gain(metric: Array, shift: Array, coefficients: Array, w: Array) -> float:
    """How far w·φ rises for a vector of length 1 along coefficients, where φ moves by `shift` along each direction."""
    moved = shift @ (np.sqrt(np.diag(metric)) * coefficients)
    return float(w @ moved / np.sqrt(coefficients @ metric @ coefficients))


def test_what_was_seen_to_move_more_is_aimed_at() -> None:
    metric, response = spaces(0)
    shift = aim.predicted(metric, response) + 3.0 * np.random.default_rng(1).normal(size=(D, D))
    turn = aim.aim_of(metric, response, shift, np.full((D, D), 1e-3))
    gains = [
        (gain(metric, shift, turn @ w, w), gain(metric, shift, w, w))
        for w in np.random.default_rng(2).normal(size=(50, D))
    ]
    assert all(turned > 0 for turned, _ in gains)
    assert np.mean([turned for turned, _ in gains]) > 1.3 * np.mean([before for _, before in gains])
    best = np.linalg.solve(metric, np.sqrt(np.diag(metric))[:, None] * shift.T)
    most = np.mean([gain(metric, shift, best @ w, w) for w in np.random.default_rng(2).normal(size=(50, D))])
    assert np.mean([turned for turned, _ in gains]) > 0.9 * most  # the ridge costs little
    assert np.trace(turn.T @ metric @ turn) == pytest.approx(np.trace(metric))


def test_where_nothing_sure_was_measured_the_covariance_is_believed() -> None:
    metric, response = spaces(3)
    expected = aim.predicted(metric, response)
    noisy = expected + 0.3 * np.random.default_rng(4).normal(size=(D, D))
    believed = aim.aim_of(metric, response, expected, np.zeros((D, D)))
    unsure = aim.aim_of(metric, response, noisy, np.full((D, D), 10.0))
    np.testing.assert_allclose(unsure / np.linalg.norm(unsure), believed / np.linalg.norm(believed), atol=1e-9)
    sure = aim.aim_of(metric, response, noisy, np.full((D, D), 1e-6))
    assert np.abs(sure - believed).max() > 10 * np.abs(unsure - believed).max()


def test_a_tastes_vector_becomes_the_turned_ones_and_nothing_else_changes() -> None:
    artifact = make_artifact()
    turn = np.random.default_rng(5).normal(size=(3, 3))
    turned = aim.aimed(artifact, turn)
    rows = artifact.population.basis / artifact.population.scale  # (D, P)
    before, after = (one.feature_space.directions.astype(np.float64) for one in (artifact, turned))
    for w in np.random.default_rng(6).normal(size=(5, 3)):
        np.testing.assert_allclose(after @ rows.T @ w, before @ rows.T @ (turn @ w), atol=1e-5)
    outside = np.linalg.svd(rows)[2][3:].T  # (P, P - D): what no taste uses
    np.testing.assert_allclose(after @ outside, before @ outside, atol=1e-5)
    assert turned.population is artifact.population
    assert turned.feature_space.projection is artifact.feature_space.projection
    assert turned.feature_space.id != artifact.feature_space.id
    same = aim.aimed(artifact, np.eye(3))
    np.testing.assert_allclose(same.feature_space.directions, artifact.feature_space.directions, atol=1e-6)


def test_the_command_writes_a_version_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = replace(make_artifact("one-1"), audit={"concise": (0.1, 0.1)})
    folder = save(artifact, manifest_of(artifact), tmp_path)

    async def measured(given: Artifact, prompts: list[object], *_: object) -> Array:
        assert len(prompts) == 7
        return np.random.default_rng(7).normal(size=(7, 3, 3)) + given.response

    monkeypatch.setattr(aim, "_measure", measured)
    told = tmp_path / "told.json"
    arguments = ["steer", "aim", "--artifact", str(folder), "--prompts", "7", "--into", str(tmp_path / "out")]
    done = CliRunner().invoke(palate, [*arguments, "--json", str(told)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (written,) = (tmp_path / "out").iterdir()
    assert written.name.startswith("one-")
    assert written.name != "one-1"
    assert load(written).audit == {}  # another direction's
    assert -1.0 <= json.loads(told.read_text())["agreement"] <= 1.0
