"""Arrays that are checked and frozen at construction, and back and forth between values and plain arrays.

Every shape is checked here once, so the mathematics need not check again. Knows nothing of what the arrays mean.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Array = NDArray[np.float64]
SIMPLEX_TOLERANCE = 1e-6


def as_array(name: str, value: object, shape: tuple[int | None, ...]) -> Array:
    """Return `value` as a read-only float64 array of `shape`; `None` in the shape admits any length.

    Raises ValueError when the shape differs or a number is not finite.
    """
    array = np.array(value, dtype=np.float64)
    if len(array.shape) != len(shape) or any(
        want not in (None, got) for want, got in zip(shape, array.shape, strict=True)
    ):
        wanted = "(" + ", ".join("any" if want is None else str(want) for want in shape) + ")"
        raise ValueError(f"{name} must have shape {wanted}, but has {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite; drop them before building this value")
    array.setflags(write=False)
    return array


def freeze(instance: object, name: str, shape: tuple[int | None, ...]) -> Array:
    """Replace an instance's array by its checked, read-only float64 copy, and return it; see `as_array`."""
    array = as_array(name, getattr(instance, name), shape)
    object.__setattr__(instance, name, array)
    return array


def check_simplex(name: str, weights: Array) -> None:
    """Raise ValueError unless the weights are at least 0 and sum to 1."""
    if weights.min() < 0.0 or abs(weights.sum() - 1.0) > SIMPLEX_TOLERANCE:
        raise ValueError(f"{name} must be at least 0 and sum to 1; divide by their sum first")


def floats(array: NDArray[np.generic]) -> Array:
    """Read a plain array as float64."""
    return np.asarray(array, dtype=np.float64)


def strings(array: NDArray[np.generic]) -> tuple[str, ...]:
    """Read a plain array as text."""
    return tuple(str(text) for text in array)


def plain_arrays(instance: DataclassInstance) -> dict[str, NDArray[np.generic]]:
    """Return what builds an instance as plain arrays; fields that are None, or dataclasses themselves, are left out."""
    values = {f.name: getattr(instance, f.name) for f in fields(instance) if f.init}
    return {
        name: np.array(value, dtype=np.str_) if isinstance(value, tuple) else np.asarray(value)
        for name, value in values.items()
        if value is not None and not is_dataclass(value)
    }
