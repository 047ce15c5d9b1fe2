"""What a person barred holds against what everybody likes, too."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from router.routing import RoutingConfig
from router.types import Array, Posterior
from serve.artifacts.artifact import Artifact
from serve.artifacts.scripted import scripted_artifact
from serve.planning import Options, route_person
from tests.router.cases import narrowed
from user_store.types import Profile

LIKED = np.array([0.0, 3.0, 3.0, 0.0])  # by everybody: the second and the third named attribute


@dataclass(frozen=True)
class Read:
    """What a read of the store would say."""

    profile: Profile
    artifact: Artifact
    posterior: Posterior | None
    assignment: tuple[str, str] | None = None


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    plain = scripted_artifact("model")
    response = np.eye(4) + 0.2 * np.ones((4, 4))  # texts with more of one attribute have more of the others
    return replace(plain, population=replace(plain.population, base_weights=LIKED), response=response)


def steered(artifact: Artifact, profile: Profile) -> Array:
    posterior = narrowed(artifact.population, np.array([2.0, 0.0, 0.0, 0.0]), 0.5)
    options = Options()
    return route_person(Read(profile, artifact, posterior), artifact, RoutingConfig(), options).steering_coefficients


def test_nobody_is_steered_along_what_they_barred_though_everybody_likes_it(artifact: Artifact) -> None:
    names = artifact.population.attribute_names
    freely, barred = (steered(artifact, profile) for profile in (Profile(), Profile(bars=frozenset({names[1]}))))
    assert artifact.response[1] @ freely > 0.3
    assert artifact.response[1] @ barred == pytest.approx(0.0, abs=1e-12)
    assert artifact.response[2] @ barred > 0.1
    assert artifact.response[0] @ barred > 0.0
