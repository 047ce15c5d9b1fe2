"""A small artifact and feature space with known numbers: two named tastes over four raw features."""

from dataclasses import replace

import numpy as np

from router.types import Population
from serve.artifacts.artifact import Artifact, Question
from serve.engines.feature_space import FeatureSpace
from serve.engines.worker_messages import Projection

P = 4


def make_space(model: str = "scripted-model") -> FeatureSpace:
    rng = np.random.default_rng(3)
    projection = Projection(np.eye(P, 8, dtype=np.float32), np.zeros(8, np.float32), np.ones(8, np.float32))
    return FeatureSpace(model, (1,), 1, projection, rng.normal(size=(8, P)).astype(np.float32), 0.2)


def make_population(version: str = "a1") -> Population:
    """K = 2, D = 3 over P = 4; the first two tastes are named."""
    basis = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.7, 0.7]])
    return Population(
        basis=basis,
        center=np.array([0.1, -0.2, 0.0, 0.3]),
        scale=np.array([1.0, 2.0, 1.0, 0.5]),
        mixture_weights=np.array([0.6, 0.4]),
        means=np.array([[0.2, 0.0, -0.1], [-0.3, 0.0, 0.15]]),
        covariances=np.stack([np.eye(3), 0.5 * np.eye(3)]),
        base_weights=np.array([0.1, 0.0, -0.2]),
        attribute_names=("concise", "formal", ""),
        version=version,
    )


def make_artifact(version: str = "a1", model: str = "scripted-model") -> Artifact:
    rng = np.random.default_rng(5)
    questions = tuple(
        Question(f"Question {i}?", (f"short {i}", f"a long answer {i}"), rng.normal(size=(2, P)).astype(np.float32))
        for i in range(4)
    )
    return Artifact(make_population(version), make_space(model), np.eye(3), questions=questions)


def with_drift(artifact: Artifact, half_life_s: float) -> Artifact:
    return replace(artifact, population=replace(artifact.population, drift_half_life_s=half_life_s))
