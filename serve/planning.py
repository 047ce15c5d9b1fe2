"""From a person and a request to arms: whose taste counts how far, which candidates, in the engine's terms.

Decides with `router`; reads no store and calls no engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec
import numpy as np

from router.candidates import PlanConfig, pick_instruction, plan_candidates
from router.groups import Aggregate
from router.routing import RoutingConfig, Wishes
from router.routing import route as find_route
from router.types import Arm, Posterior, Route
from serve.artifacts.artifact import Artifact
from serve.config import PersonalizationConfig
from serve.engines.protocol import BestOf, EngineArm, GenerationRequest
from user_store.types import Profile


class Taste(Protocol):
    """What one read of the store says about a person."""

    @property
    def profile(self) -> Profile:
        """What they decided about their model."""

    @property
    def artifact(self) -> Artifact:
        """The artifact they are read with now."""

    @property
    def posterior(self) -> Posterior | None:
        """What is believed about them under it; None without feedback that counts."""

    @property
    def assignment(self) -> tuple[str, str] | None:
        """The running experiment and their arm in it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the request asks of personalization; None leaves it to the operator."""

    best_of: int | None = None
    strength: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    aggregate: Aggregate = Aggregate.MEAN
    explore: float | None = None
    explain: bool = False
    is_off: bool = False
    is_halving: bool | None = None


def route_person(taste: Taste | None, artifact: Artifact, config: RoutingConfig, options: Options) -> Route:
    """Route one person; what they pinned or barred is not inferred, and pins count as wishes of their own."""
    space, names = artifact.space, artifact.population.attribute_names
    weights, fixed = dict(options.weights), set[str]()
    if taste is not None and options.strength > 0:
        pins = {name: level for name, level in taste.profile.pins.items() if name in names}
        weights, fixed = {**pins, **weights}, {*pins, *taste.profile.bars}
    posterior = taste.posterior if taste is not None else None
    rows = [row for row, name in enumerate(names) if name and name in fixed]
    if posterior is None or not rows:
        return find_route(posterior, space, config, Wishes(options.strength, weights))
    inferred = find_route(posterior, space, config, Wishes(options.strength))
    base = space.population.base_weights
    wished = find_route(None, space, config, Wishes(0.0, weights)) if weights else None
    directions = space.response[rows]  # (J, D): what a taste, or a steering, does to the fixed attributes
    nothing = np.zeros(len(rows))
    taste_left = inferred.taste.conditioned(directions, nothing)
    liked_left = inferred.taste.affine(1.0, base).conditioned(directions, nothing)
    coefficients = (inferred.dose > 0.0) * inferred.pull_per_taste * space.open_to(liked_left.mean)
    judge = inferred.judge.conditioned(directions, directions @ base)
    if wished is not None:
        coefficients = coefficients + wished.steering_coefficients
        judge = judge.affine(1.0, wished.judge.mean - base)
    coefficients, dose = space.limited(coefficients)
    return replace(
        inferred,
        steering_coefficients=coefficients,
        dose=dose,
        steering="explicit" if inferred.dose == 0.0 and dose > 0.0 else inferred.steering,
        judge=judge,
        taste=taste_left,
        anchor=taste_left.mean,
    )


def plan_arms(
    routes: Sequence[Route],
    artifact: Artifact,
    plan: PlanConfig,
    rng: np.random.Generator,
    request: GenerationRequest,
    config: PersonalizationConfig,
) -> tuple[Arm, ...]:
    """Plan the arms of one person, or let several take turns: everyone's own arm before anyone's neighbours."""
    plans = []
    for route in routes:
        instruction = None
        if request.chat is not None and config.instructions and artifact.instruction_effects is not None:
            picked = pick_instruction(route.judge, artifact.instruction_effects, config.steering_gate)
            instruction = None if picked is None else artifact.instructions[picked]
        arms = plan_candidates(route, artifact.space, plan, rng, instruction).arms
        share = artifact.bearable(request.sampling.temperature)
        plans.append(tuple(replace(arm, dose=share * arm.dose) for arm in arms))
    if len(plans) == 1:
        return plans[0]
    base, *_ = plans[0]
    if plan.num_arms == 1:
        return (base,)
    turns = [arm for rank in zip(*(arms[1:] for arms in plans), strict=True) for arm in rank]
    return (base, *turns[: plan.num_arms - 1])


def with_arms(request: GenerationRequest, artifact: Artifact, arms: Sequence[Arm], rules: BestOf) -> GenerationRequest:
    """Put arms and the rules of choosing among them into a request."""
    single = msgspec.structs.replace(request.sampling, n=1)
    engine_arms: tuple[EngineArm, ...] = tuple(artifact.engine_arm(arm) for arm in arms)
    return msgspec.structs.replace(request, sampling=single, arms=engine_arms, best_of=rules)


def base_arm(artifact: Artifact) -> Arm:
    """The untouched base model."""
    return Arm("base", np.zeros(artifact.population.num_features))
