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

HELD_OUT = "held_out_share"  # of people, by their places, whom neither a version nor its ancestors were fitted to


@dataclass(frozen=True)
class Origin:
    """Where a version comes from, for its manifest."""

    parents: tuple[Manifest, ...] = ()  # of the versions it was fitted from
    data: dict[str, Any] = field(default_factory=dict)  # people, events, window
    metrics: dict[str, Any] = field(default_factory=dict)


def save_new(artifact: Artifact, name: str, origin: Origin, parent: Path) -> Path:
    """Name an artifact after its contents (`name`-hash), write it below `parent`, and return its folder.

    Raises:
        ConfigurationError: the same contents are there already.
    """
    version = version_of(artifact.population, name, artifact.adapters, artifact.feature_space.engine_id)
    manifest = Manifest(
        version=version,
        model=artifact.feature_space.model,
        feature_space=artifact.feature_space.id,
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        command=command_line(),
        parents=tuple(one.version for one in origin.parents),
        data=_inherited(origin),
        metrics=origin.metrics,
    )
    return save(replace(artifact, population=replace(artifact.population, version=version)), manifest, parent)


def _inherited(origin: Origin) -> dict[str, Any]:
    """Return the data, held out at most as many people as from any parent: who taught a parent taught this, too."""
    told = [one[HELD_OUT] for one in (origin.data, *(parent.data for parent in origin.parents)) if HELD_OUT in one]
    return origin.data | ({HELD_OUT: min(told)} if told else {})


def command_line() -> str:
    """Return the command that runs, without the folders of this machine."""
    return shlex.join(["palate", *(part.rsplit("/", 1)[-1] for part in sys.argv[1:])])
