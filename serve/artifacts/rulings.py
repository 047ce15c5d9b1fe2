"""What was decided about a candidate, one file each: `PALATE_HOME/artifacts/rulings/<version>.json`.

A ruling is about the very files it was made on, and about the version that served then. Knows nothing of how.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from serve.artifacts.storage import MANIFEST, sync
from serve.errors import ConfigurationError

FOLDER = "rulings"


@dataclass(frozen=True, slots=True)
class Ruling:
    """Whether a candidate may replace what serves, and why."""

    candidate: str
    fingerprint: str  # of the candidate's manifest, which holds the hashes of its files
    against: str
    is_passed: bool
    reasons: tuple[str, ...]
    created: str  # UTC
    metrics: dict[str, Any] = field(default_factory=dict)

    def save(self, artifacts: Path) -> Path:
        """Write it below the folder of artifacts; a later ruling replaces an earlier one."""
        folder = artifacts / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.candidate}.json"
        aside = folder / f".{self.candidate}-{os.getpid()}"
        aside.write_text(json.dumps(asdict(self), indent=1) + "\n")
        sync(aside)
        aside.rename(path)
        return path


def read_ruling(artifacts: Path, version: str) -> Ruling | None:
    """Read what was decided; None if nothing was. Raises ConfigurationError if that cannot be read."""
    path = artifacts / FOLDER / f"{version}.json"
    try:
        fields = json.loads(path.read_text())
        return Ruling(**fields | {"reasons": tuple(fields["reasons"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def fingerprint(folder: Path) -> str:
    """Name the exact files of an artifact."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
