"""Steps that outlive the run that found them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from router.basis import Basis, BasisConfig
from router.em import Prior, Run
from router.population import FitConfig, fit_population, plain_layout
from router.tabulation import tabulate
from router.types import Population
from serve.artifacts.storage import version_of
from serve.jobs.fit.gathering import raw_reader
from serve.jobs.fit.resuming import Steps
from tests.serve.jobs.fit.cases import PARENT, judgements

PRIOR = Prior(np.zeros(1), np.ones((1, 3)), np.eye(3)[None], np.zeros(3), flip_rate=0.1, has_thumbs=True)
BASIS = Basis(np.eye(2), np.ones(2), 0.5, np.ones((4, 2)))


def test_what_was_found_is_recalled_in_order(tmp_path: Path) -> None:
    first = Steps(tmp_path / "fit")
    assert first(Basis, lambda: BASIS) is BASIS
    assert first(Prior, lambda: PRIOR) is PRIOR

    def never() -> Prior:
        raise AssertionError("found anew")

    second = Steps(tmp_path / "fit")
    basis = second(Basis, lambda: BASIS)
    prior = second(Prior, never)
    np.testing.assert_array_equal(prior.covariances, PRIOR.covariances)
    assert (prior.flip_rate, bool(prior.has_thumbs), basis.threshold) == (0.1, True, 0.5)
    assert second.num_recalled == 2
    with pytest.raises(AssertionError, match="found anew"):
        second(Prior, never)


def test_a_killed_step_leaves_nothing(tmp_path: Path) -> None:
    def dies() -> Prior:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Steps(tmp_path)(Prior, dies)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("num_kept", [2, 5])
def test_a_resumed_fit_is_the_same_to_the_last_bit(tmp_path: Path, num_kept: int) -> None:
    reader = raw_reader(PARENT.feature_space)
    logs = [judgements(person, 6) for person in range(12)]
    table = tabulate([[one for event in log for one in reader.events(event)] for log in logs])
    config = FitConfig(BasisConfig(rank=1), (1,), em_iterations=3, flip_rates=(0.1,))

    def fit(steps: Steps) -> Population:
        return fit_population(table, plain_layout(table.features), config, 0, Run(keep=steps))[0]

    whole = fit(Steps(tmp_path))
    found = sorted(tmp_path.iterdir())
    assert len(found) > num_kept
    for path in found[num_kept:]:  # a kill leaves what came before
        path.unlink()
    steps = Steps(tmp_path)
    resumed = fit(steps)
    assert steps.num_recalled == num_kept
    for name, array in whole.to_arrays().items():
        np.testing.assert_array_equal(resumed.to_arrays()[name], array, err_msg=name)
    assert version_of(resumed, "fit") == version_of(whole, "fit")
