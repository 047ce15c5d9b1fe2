"""One version of what was learned from everyone: the population, how it steers, and what can be asked and said.

An artifact is fitted in one feature space of one model. Its folder: `manifest.json` (version, feature space, metrics,
hashes of the other files), `population.safetensors`, and optionally questions and adapters. Knows neither engines nor
stores; safetensors and JSON only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from router.explain import attribute_directions
from router.routing import SteeringSpace
from router.types import Arm, Array, Population
from serve.engines.feature_space import FeatureSpace
from serve.engines.protocol import EngineArm, Readout
from serve.engines.steering_request import MAX_TILT


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """Answers to one prompt that can be put to a person: which is best?"""

    prompt: str
    answers: tuple[str, ...]  # two or more
    features: NDArray[np.float32]  # (answers, P)


@dataclass(frozen=True, eq=False)
class Artifact:
    """What the request path needs of one version.

    The audit says how large a dose text bears against and along a named direction, 0 that it may not steer that way;
    a direction without one may take `max_dose`.
    """

    population: Population  # over the feature space's P features; its `version` is the artifact's
    feature_space: FeatureSpace
    response: Array  # (D, D): Cov(φ, φ) over plain answers
    audit: dict[str, tuple[float, float]] = field(default_factory=dict)  # named direction -> bearable doses
    max_dose: float = 0.2
    dose_temperature: float = 1.0  # up to which text bears `max_dose`; above it, less
    min_p: float = 0.0  # steered candidates draw no token less likely than this share of the likeliest one
    repetition_penalty: float = 1.0  # on tokens that a steered candidate has already
    tilt: float = 0.0  # root mean square of what steering at `max_dose` adds to logits; less in proportion to the dose
    adapters: tuple[str | None, ...] = ()  # (K,) folder of each prototype's adapter; empty: none
    instructions: tuple[str, ...] = ()  # shared style sentences
    instruction_effects: Array | None = None  # (I, D)
    questions: tuple[Question, ...] = ()  # opening questions first

    def __post_init__(self) -> None:
        if not 0.0 <= self.tilt <= MAX_TILT:
            raise ValueError(f"The tilt is between 0 and {MAX_TILT}; not {self.tilt}.")

    @property
    def version(self) -> str:
        """The artifact's version."""
        return self.population.version

    @cached_property
    def space(self) -> SteeringSpace:
        """The population with what steering does in its directions."""
        population = self.population
        directions = self.feature_space.directions.astype(np.float64) @ self._to_engine.T  # (H, D)
        reach = np.ones((2, population.num_features))
        for row, name in enumerate(population.attribute_names):
            if name in self.audit:
                reach[:, row] = np.minimum(np.divide(self.audit[name], max(self.max_dose, 1e-12)), 1.0)
        adapters = self.adapters or (None,) * population.num_prototypes
        metric = directions.T @ directions
        return SteeringSpace(population, metric, self.response, reach, adapters, self.max_dose)

    def bearable(self, temperature: float | None) -> float:
        """Return the share of a dose that text bears at a sampling temperature; None is the protocol's 1.

        Steering and heat fatten the same tail of unlikely tokens; the third power is what reading at .8 and 1 gave.
        """
        heat = 1.0 if temperature is None else temperature
        return 1.0 if heat <= self.dose_temperature else (self.dose_temperature / heat) ** 3

    @cached_property
    def _to_engine(self) -> Array:
        """Coefficients of the engine's directions per reward feature, (D, P)."""
        return self.population.basis / self.population.scale

    @cached_property
    def attribute_directions(self) -> dict[str, Array]:
        """Named attribute -> direction (D,); its product with a taste is in logits per deviation of the attribute."""
        return attribute_directions(self.population.attribute_names, self.response)

    @cached_property
    def readout(self) -> Readout:
        """From the engine's features to reward features."""
        return Readout(self.population.basis, self.population.center, self.population.scale)

    def engine_arm(self, arm: Arm) -> EngineArm:
        """Express an arm in the engine's directions."""
        coeffs: tuple[float, ...] = ()
        if arm.dose > 0.0:
            coeffs = tuple((arm.steering_coefficients @ self._to_engine).tolist())
        if not coeffs:
            return EngineArm(adapter=arm.adapter, instruction=arm.instruction)
        return EngineArm(
            coeffs,
            arm.dose,
            arm.adapter,
            arm.instruction,
            self.min_p,
            self.repetition_penalty,
            tilt=min(self.tilt * arm.dose / max(self.max_dose, 1e-12), MAX_TILT),
        )
