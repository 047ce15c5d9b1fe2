"""How freely a fit may learn, from people whose tastes are known."""

from __future__ import annotations

import numpy as np
import pytest

from router.em import HERE
from router.population import FitConfig, plain_layout
from router.types import Array
from serve.jobs.fit.freedom import RIDGES, choose_freedom
from tests.router.simulated import Crowd, simulate

P = 40
CONFIG = FitConfig(num_prototypes=(1,), flip_rates=(0.0,), temperings=(1.0,))


def noise() -> Crowd:
    """40 people with weak tastes in all 40 directions, 8 comparisons each: nothing that one learns of another."""
    return simulate(np.zeros((1, P)), (40,), 8, spread=0.05, flip_rate=0.0, seed=0)


def along(direction: Array, *, is_shared: bool) -> Crowd:
    """60 people who care about one direction, all the same way or half of them the other."""
    tastes = np.stack([direction, direction if is_shared else -direction])
    return simulate(tastes, (30, 30), 16, spread=0.02, flip_rate=0.0, seed=1)


def test_noise_is_given_no_freedom() -> None:
    crowd = noise()
    chosen = choose_freedom(crowd.table(), plain_layout(crowd.features), CONFIG, 2, HERE, seed=0)
    assert chosen.rank == 0
    assert chosen.base_ridge == RIDGES[0]


@pytest.mark.parametrize("is_shared", [True, False])
def test_what_people_share_and_where_they_differ_are_learned(is_shared: bool) -> None:
    crowd = along(1.5 * np.eye(P)[0], is_shared=is_shared)
    chosen = choose_freedom(crowd.table(), plain_layout(crowd.features), CONFIG, 1, HERE, seed=0)
    if is_shared:
        assert chosen.base_ridge < RIDGES[0]
    else:
        assert chosen.rank == 1
