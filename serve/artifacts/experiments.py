"""Which candidate is tried on which share of people: one running experiment a model, in one file.

A person's arm is a hash of the experiment's name and their id: the same on every server, for as long as it runs, and
another one in the next experiment. `experiments.json` is replaced in one rename. Knows no servers and no results.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from serve.artifacts.storage import sync
from serve.errors import ConfigurationError
from user_store.types import UserKey

EXPERIMENTS = "experiments.json"
CANDIDATE, CONTROL = "candidate", "control"


@dataclass(frozen=True, slots=True)
class Experiment:
    """A candidate on a share of people, against what serves the others."""

    name: str
    model: str
    candidate: str  # version
    against: str  # version in service
    share: float  # of people, in (0, 1)
    started_at: float  # Unix time in seconds

    def arm_of(self, key: UserKey) -> str:
        """Return a person's arm."""
        digest = hashlib.sha256(f"{self.name}\0{key.tenant}\0{key.user}".encode()).digest()
        return CANDIDATE if int.from_bytes(digest[:6]) / 2**48 < self.share else CONTROL


def read_experiments(artifacts: Path) -> dict[str, Experiment]:
    """Return the running experiments by model. Raises ConfigurationError where the file cannot be read."""
    path = artifacts / EXPERIMENTS
    try:
        return {model: Experiment(**fields) for model, fields in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def write_experiments(artifacts: Path, experiments: Mapping[str, Experiment]) -> None:
    """Replace the file."""
    path = artifacts / EXPERIMENTS
    aside = path.with_name(f".{EXPERIMENTS}-{os.getpid()}")
    aside.write_text(json.dumps({model: asdict(one) for model, one in experiments.items()}, indent=1) + "\n")
    sync(aside)
    aside.rename(path)
    sync(artifacts)
