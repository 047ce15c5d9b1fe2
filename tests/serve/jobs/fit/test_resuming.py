"""Steps that outlive the run that found them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from router.basis import Basis
from router.em import Prior
from serve.jobs.fit.resuming import Steps

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
