from pathlib import Path

import numpy as np
import pytest

from serve.jobs.few_shot.data import DataError
from serve.jobs.few_shot.features import make_inputs, matrix_file


def test_unseen_items_have_their_text_alone() -> None:
    rng = np.random.default_rng(0)
    cold = np.arange(12) >= 9
    inputs = make_inputs(rng.normal(size=(12, 5)), np.arange(12) % 2, cold)
    assert inputs.is_seen.tolist() == [True] * 9 + [False] * 3 + [True]
    assert not inputs.features[9:12, inputs.num_shared :].any()
    assert not inputs.features[-1].any()  # the reference
    np.testing.assert_allclose((inputs.text[:9] ** 2).sum(axis=1).mean(), 1.0)
    assert inputs.tastes.shape == inputs.base.shape == inputs.features.shape


def test_one_context_needs_no_indicators() -> None:
    inputs = make_inputs(np.random.default_rng(0).normal(size=(6, 3)), np.zeros(6, dtype=np.int64), np.arange(6) > 3)
    assert inputs.features.shape == (7, 3 + 4)


def test_matrix_must_fit_the_texts(tmp_path: Path) -> None:
    path = tmp_path / "features.npy"
    np.save(path, np.ones((2, 3), dtype=np.float32))
    assert matrix_file(path)(("a", "b")).shape == (2, 3)
    with pytest.raises(DataError, match=r"one row for each of the 3 items"):
        matrix_file(path)(("a", "b", "c"))
    np.save(path, np.full((2, 3), np.nan))
    with pytest.raises(DataError, match="not finite"):
        matrix_file(path)(("a", "b"))
    path.write_text("no matrix")
    with pytest.raises(DataError, match=r"not a .npy matrix"):
        matrix_file(path)(("a", "b"))
