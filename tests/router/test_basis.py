import numpy as np
import pytest

from router.basis import BasisConfig, fit_base, fit_basis, row_loss
from router.feedback import tabulate
from tests.router.worlds import mixed_events, simulate


def test_row_loss_has_the_slope_it_says() -> None:
    table = tabulate([mixed_events(2, 12)])
    scores = np.random.default_rng(0).normal(size=len(table.groups))
    _, slope = row_loss(table, scores)
    for row in range(len(scores)):
        shift = 1e-6 * np.eye(len(scores))[row]
        numeric = (row_loss(table, scores + shift)[0] - row_loss(table, scores - shift)[0]) / 2e-6
        assert slope[row] == pytest.approx(numeric, abs=1e-6)


def test_base_is_the_shared_taste() -> None:
    world = simulate(0, [1.0], flip_rate=0.0, num_people=100)
    base, threshold = fit_base(world.table, world.table.features, ridge=0.1)
    truth = world.prototypes[0]
    assert base @ truth / np.linalg.norm(base) / np.linalg.norm(truth) > 0.99
    assert threshold == 0.0


def test_directions_span_the_prototypes() -> None:
    world = simulate(1, [0.5, 0.5], flip_rate=0.0, num_people=150)
    rng = np.random.default_rng(0)
    X = world.table.features
    basis = fit_basis(world.table, X, X, BasisConfig(rank=2), rng)
    contrast = world.prototypes[0] - world.prototypes[1]
    inside = np.linalg.qr(basis.directions.T)[0]
    assert np.linalg.norm(inside.T @ contrast) / np.linalg.norm(contrast) > 0.97
    again = fit_basis(world.table, X, X, BasisConfig(rank=2), np.random.default_rng(0))
    np.testing.assert_array_equal(basis.directions, again.directions)


def test_config_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="rank"):
        BasisConfig(rank=-1)
    with pytest.raises(ValueError, match="ridges"):
        BasisConfig(base_ridge=0.0)
