import io
from dataclasses import replace

import numpy as np
import pytest

from router.types import as_array
from tests.router.types.cases import population, posterior


def test_arrays_are_checked_copied_and_read_only() -> None:
    source = np.zeros(2)
    array = as_array("x", source, (None,))
    source[0] = 5.0
    assert array[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0
    with pytest.raises(ValueError, match=r"x must have shape \(any, 2\), but has \(2,\)"):
        as_array("x", source, (None, 2))
    with pytest.raises(ValueError, match="finite"):
        as_array("x", [np.nan], (1,))


def test_arrays_survive_a_file_without_pickle() -> None:
    for original in (posterior(), population(), replace(population(), gating_weights=None, drift_half_life_s=None)):
        buffer = io.BytesIO()
        np.savez(buffer, **original.to_arrays())  # type: ignore[arg-type]
        buffer.seek(0)
        with np.load(buffer, allow_pickle=False) as arrays:
            copy = type(original).from_arrays(arrays)
        assert original.to_arrays().keys() == copy.to_arrays().keys()
        for name, array in original.to_arrays().items():
            np.testing.assert_array_equal(array, copy.to_arrays()[name], err_msg=name)
