import numpy as np
import pytest

from router.basis import Basis, BasisConfig, fit_base, fit_basis, row_loss
from router.inputs import Inputs
from router.tabulation import tabulate
from tests.router.chances import KINDS, outcomes
from tests.router.simulated import simulate


def test_slope_of_rows_against_finite_differences() -> None:
    rng = np.random.default_rng(0)
    table = tabulate([[outcomes(kind, *rng.normal(size=(3, 2)))[i % 2] for i, kind in enumerate(KINDS * 2)]])
    scores = rng.normal(size=len(table.groups))
    _, slope = row_loss(table, scores)
    for row in range(len(scores)):
        step = 1e-5 * np.eye(len(scores))[row]
        numeric = (row_loss(table, scores + step)[0] - row_loss(table, scores - step)[0]) / 2e-5
        assert slope[row] == pytest.approx(numeric, abs=1e-6)


def test_the_pooled_reward_everyone_shares_is_found() -> None:
    # 3,000 comparisons by people of one mind; the ridge of 1 shrinks a little.
    taste = np.array([[1.0, -0.5, 0.0]])
    crowd = simulate(taste, (100,), 30, spread=0.0, flip_rate=0.0, seed=1)
    base, threshold = fit_base(crowd.table(), crowd.features, 1.0)
    np.testing.assert_allclose(base, taste[0], atol=0.12)
    assert threshold == 0.0


def test_the_directions_in_which_people_differ_are_found() -> None:
    # Tastes differ along two of six directions: the learned plane holds them (cosine of the worst angle above .95).
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(6, 2)))[0].T
    tastes = 2.0 * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) @ plane
    crowd = simulate(tastes, (40,) * 4, 25, spread=0.0, flip_rate=0.0, seed=2)
    config = BasisConfig(rank=2)
    table = crowd.table()
    learned = fit_basis(table, crowd.features, crowd.features, config, np.random.default_rng(3))
    found = np.linalg.qr(learned.directions.T)[0].T
    assert np.linalg.svd(plane @ found.T)[1].min() > 0.95
    again = fit_basis(table, crowd.features, crowd.features, config, np.random.default_rng(3))
    np.testing.assert_array_equal(learned.directions, again.directions)
    assert learned.weights.shape == (160, 2)


@pytest.mark.parametrize("rank", [0, 2])
def test_from_some_peoples_basis_everybodys_is_near(rank: int) -> None:
    # Half of the people's, and few iterations on: as far down as all from scratch, within a thousandth of the way.
    tastes = np.array([[2.0, 0.0, 0.5, 0.0], [-2.0, 0.0, 0.5, 0.0], [0.0, 2.0, 0.5, 0.0]])
    crowd = simulate(tastes, (40,) * 3, 20, spread=0.0, flip_rate=0.0, seed=2)
    table, config = crowd.table(), BasisConfig(rank=rank)
    inputs = Inputs(crowd.features, np.zeros(4), np.ones(4))
    some = table.subset(np.arange(0, 120, 2)).compact()
    half = Inputs(some.features, np.zeros(4), np.ones(4))
    near = fit_basis(some, half, half, config, np.random.default_rng(3))
    whole = fit_basis(table, inputs, inputs, config, np.random.default_rng(3))
    onward = fit_basis(table, inputs, inputs, config, np.random.default_rng(3), near)
    assert onward.weights.shape == (120, rank)

    def loss(basis: Basis) -> float:
        weights = np.column_stack([np.ones(120), basis.weights])[table.row_people]
        phi = table.differences() @ (crowd.features @ np.vstack([basis.base, basis.directions]).T)
        sizes = basis.base @ basis.base + np.sum(basis.weights**2) + np.sum(basis.directions**2)
        return row_loss(table, np.sum(phi * weights, axis=1))[0] + 0.5 * float(sizes)

    nothing = Basis(np.zeros((rank, 4)), np.zeros(4), 0.0, np.zeros((120, rank)))
    assert loss(onward) - loss(whole) < 1e-3 * (loss(nothing) - loss(whole))


def test_rank_zero_learns_the_shared_reward_alone() -> None:
    crowd = simulate(np.array([[1.0, -0.5, 0.0]]), (30,), 20, spread=0.0, flip_rate=0.0, seed=1)
    learned = fit_basis(crowd.table(), crowd.features, crowd.features, BasisConfig(rank=0), np.random.default_rng(0))
    assert learned.directions.shape == (0, 3)
    assert learned.weights.shape == (30, 0)
    np.testing.assert_array_equal(learned.base, fit_base(crowd.table(), crowd.features, 1.0)[0])


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="rank must be at least 0"):
        BasisConfig(rank=-1)
    with pytest.raises(ValueError, match="ridges must be positive"):
        BasisConfig(base_ridge=0.0)
