"""Other artifacts for the scripted engine, and the registry they are published in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import Registry
from serve.artifacts.scripted import scripted_artifact
from serve.artifacts.storage import save
from serve.home import Home
from tests.serve.artifacts.test_storage import manifest_of

FIRST, SECOND = "scripted-1", "scripted-2"


def second_artifact(model: str, version: str = SECOND) -> Artifact:
    """Three prototypes over three features, where the scripted engine's own has two over four."""
    own = scripted_artifact(model)
    population = own.population
    return replace(
        own,
        population=replace(
            population,
            basis=population.basis[:3],
            mixture_weights=np.array([0.4, 0.3, 0.3]),
            means=np.array([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
            covariances=np.stack([np.eye(3)] * 3),
            base_weights=np.zeros(3),
            threshold_means=None,
            threshold_variances=None,
            threshold_covariances=None,
            attribute_names=population.attribute_names[:3],
            version=version,
        ),
        response=np.eye(3),
    )


def registry_of(folder: Path, *artifacts: Artifact) -> Registry:
    """Save versions below a home, where nothing ships."""
    home = Home(folder)
    for artifact in artifacts:
        save(artifact, manifest_of(artifact), home.artifacts)
    return Registry(home, shipped=folder / "nothing-ships")
