"""What the steps of a fit found, one file each in a folder, so that a killed run goes on where it was.

A folder belongs to one fit: the same parent, feedback, options and seed. Arrays and numbers only; written aside and
renamed. Knows nothing of what the steps compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from router.em import Found


class Steps:
    """Recalls or keeps step after step, in order: `router.em.Keep`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._number = 0
        self.num_recalled = 0

    def __call__(self, kind: type[Found], find: Callable[[], Found]) -> Found:
        """Return what this step found in an earlier run, else find it now and keep it."""
        self._number += 1
        path = self._folder / f"{self._number:04d}-{kind.__name__}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as arrays:
                self.num_recalled += 1
                return kind(**{name: array[()] if array.ndim == 0 else array for name, array in arrays.items()})
        found = find()
        aside = path.with_name(f".{path.name}")
        with aside.open("wb") as file:
            np.savez(file, **asdict(found))
        aside.rename(path)
        return found
