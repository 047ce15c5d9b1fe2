"""How a command writes what it made: named after its contents, with a manifest that says where it comes from.

Every command that makes a version ends here. Knows nothing of how one is made.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serve.artifacts.artifact import Artifact
from serve.artifacts.storage import Manifest, save, version_of


@dataclass(frozen=True)
class Origin:
    """Where a version comes from, for its manifest."""

    parents: tuple[str, ...] = ()  # versions it was fitted from
    data: dict[str, Any] = field(default_factory=dict)  # people, events, window
    metrics: dict[str, Any] = field(default_factory=dict)


def save_new(artifact: Artifact, name: str, origin: Origin, parent: Path) -> Path:
    """Name an artifact after its contents (`name`-hash), write it below `parent`, and return its folder.

    Raises:
        ConfigurationError: the same contents are there already.
    """
    version = version_of(artifact.population, name, artifact.adapters)
    manifest = Manifest(
        version=version,
        model=artifact.feature_space.model,
        feature_space=artifact.feature_space.id,
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        command=command_line(),
        parents=origin.parents,
        data=origin.data,
        metrics=origin.metrics,
    )
    return save(replace(artifact, population=replace(artifact.population, version=version)), manifest, parent)


def command_line() -> str:
    """Return the command that runs, without the folders of this machine."""
    return shlex.join(["palate", *(part.rsplit("/", 1)[-1] for part in sys.argv[1:])])
