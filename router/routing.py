"""Turn what is known of a person into a route: mixture weights, steering, adapter, and the weights that judge.

Steering follows all that a person is believed to like, Δ = w₀ + E[w | feedback], since states tilted by exp(β r·φ) move
along C·r: what everybody likes as well as what is the person's own. Certainty scales the dose, a gate keeps doubtful
tastes from steering at all, a limit keeps text fluent. Explicit weights add arithmetically (Directional Preference
Alignment, Wang et al. 2024). Knows nothing of engines, texts or how the posterior was made; docs/routing.md has the
equations and the reasons for the defaults.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from router.mixture import Mixture
from router.types import Array, Population, Posterior, Route, SteeringReason


@dataclass(frozen=True)
class RoutingConfig:
    """Limits and thresholds of a route."""

    saturation: float = 0.1  # certainty times size of taste (1: a typical person's) that earns the full dose
    gate: float = 0.8  # P(steering gains | posterior) needed to steer
    adapter_min_weight: float = 0.5  # responsibility a prototype needs for its adapter
    adapter_margin: float = 0.2  # and its lead over the next one

    def __post_init__(self) -> None:
        if not self.saturation > 0.0:
            raise ValueError(f"saturation must be above 0, but is {self.saturation}")
        if not 0.5 <= self.gate <= 1.0:
            raise ValueError(f"the gate is a probability between .5 and 1, but is {self.gate}")
        if not (0.0 <= self.adapter_min_weight <= 1.0 and 0.0 <= self.adapter_margin <= 1.0):
            raise ValueError("adapter_min_weight and adapter_margin are shares between 0 and 1")


@dataclass(frozen=True)
class Wishes:
    """What the caller asks for in the request itself."""

    strength: float = 1.0  # 0: as if nothing were known; 1: all that is known
    weights: Mapping[str, float] = field(default_factory=dict)  # attribute -> signed weight; 1 is one full dose of it

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength must be in [0, 1], but is {self.strength}")
        if not all(math.isfinite(weight) for weight in self.weights.values()):
            raise ValueError("explicit weights must be finite numbers")


@dataclass(frozen=True, eq=False)
class SteeringSpace:
    """A population and what steering does in its directions; made once, when the artifact is loaded."""

    population: Population
    dose_metric: Array  # (D, D): cᵀ·metric·c is the squared length of C·c; CᵀC up to scale
    response: Array  # (D, D): Cov(φ, φ) over texts, which is also the shift of φ for coefficients, up to scale
    reach: Array  # (2, D): how far against and along each direction, as a share of `max_dose`; 0 not at all, 1 any
    adapters: tuple[str | None, ...]  # (K,) name of each prototype's adapter
    max_dose: float = 0.2  # length of a steering vector relative to the residual norm at which text is still fluent

    def __post_init__(self) -> None:
        D, K = self.population.num_features, self.population.num_prototypes
        if self.dose_metric.shape != (D, D) or self.response.shape != (D, D) or self.reach.shape != (2, D):
            raise ValueError(f"dose_metric and response must have shape ({D}, {D}), reach (2, {D})")
        if not (self.reach.min() >= 0.0 and self.reach.max() <= 1.0):
            raise ValueError("reach must be between 0 and 1")
        if not (np.diag(self.dose_metric).min() > 0.0 and np.diag(self.response).min() > 0.0):
            raise ValueError("dose_metric and response must be positive on the diagonal; drop features that never vary")
        if not (math.isfinite(self.max_dose) and self.max_dose >= 0.0):
            raise ValueError(f"max_dose must be at least 0, but is {self.max_dose}")
        if len(self.adapters) != K:
            raise ValueError(f"adapters needs a name or None for each of the {K} prototypes")

    @cached_property
    def prior(self) -> Mixture:
        """The taste of somebody unknown."""
        return Mixture(self.population.mixture_weights, self.population.means, self.population.covariances)

    @cached_property
    def mask(self) -> Array:
        """1 for the directions that may steer one way at least, else 0; (D,)."""
        return np.asarray(self.reach.max(axis=0) > 0.0, np.float64)

    @cached_property
    def typical(self) -> float:
        """Root mean square length of a person's deviation from the pool, in the dose metric."""
        return math.sqrt(max(float(np.sum(self.dose_metric * self.prior.covariance)), 1e-24))

    @cached_property
    def lengths(self) -> Array:
        """Length of each direction in the dose metric, (D,); infinite where it may not steer."""
        return np.where(self.mask > 0.0, np.sqrt(np.diag(self.dose_metric)), np.inf)

    @cached_property
    def bounds(self) -> Array:
        """Largest coefficients against and along each direction, (2, D); infinite where nothing bounds them."""
        return np.asarray(np.where(self.reach < 1.0, self.reach / self.lengths, np.inf))

    @cached_property
    def logits_per_weight(self) -> Array:
        """Reward weights per unit of explicit weight, (D,): spread over texts as a typical person's taste has it."""
        spread = math.sqrt(float(np.sum(self.response * self.prior.covariance)))
        return spread / np.sqrt(np.diag(self.response))

    def length(self, coefficients: Array) -> float:
        """Length of coefficients (D,) in the dose metric."""
        return math.sqrt(max(float(coefficients @ self.dose_metric @ coefficients), 0.0))

    def open_to(self, tastes: Array) -> Array:
        """Return tastes (D,) without those that may not steer their way."""
        return np.asarray(np.where(np.where(tastes < 0.0, self.reach[0], self.reach[1]) > 0.0, tastes, 0.0))

    def limited(self, coefficients: Array) -> tuple[Array, float]:
        """Shorten coefficients (D,) to length 1 and each to its reach, and give the dose: length 1 is `max_dose`.

        Directions that point against each other can be longer than what they come to; those of reach 1 are left so.
        """
        against, along = self.bounds
        reached = self._shortened(np.clip(self._shortened(coefficients), -against, along))
        return reached, self.max_dose * min(self.length(reached), 1.0)

    def _shortened(self, coefficients: Array) -> Array:
        return np.asarray(coefficients / max(self.length(coefficients), 1.0))


def plain_space(population: Population) -> SteeringSpace:
    """Make the space of a whitened basis: all directions equally long, allowed, without adapters."""
    D, K = population.num_features, population.num_prototypes
    return SteeringSpace(population, np.eye(D), np.eye(D), np.ones((2, D)), (None,) * K)


def measured_space(
    population: Population, features: Array, directions: Array, adapters: tuple[str | None, ...], max_dose: float
) -> SteeringSpace:
    """Make the space from what was measured on plain texts: features (M, D) and the engine's directions C (H, D).

    All directions reach as far as `max_dose`; limit some with `dataclasses.replace`.
    """
    D = population.num_features
    if features.ndim != 2 or features.shape[1] != D or len(features) < 2:
        raise ValueError(f"features must have shape (2 or more, {D}), but have {features.shape}")
    if directions.ndim != 2 or directions.shape[1] != D:
        raise ValueError(f"directions must have shape (H, {D}), but have {directions.shape}")
    response = np.asarray(np.cov(features, rowvar=False), dtype=np.float64).reshape(D, D)
    return SteeringSpace(population, directions.T @ directions, response, np.ones((2, D)), adapters, max_dose)


def route(
    posterior: Posterior | None,
    space: SteeringSpace,
    config: RoutingConfig,
    wishes: Wishes,
    prompt_features: Array | None = None,
) -> Route:
    """Route one request; `posterior` is None for a person without feedback, `prompt_features` (Q,) gate the prototypes.

    Raises ValueError for an attribute that the population does not name and for a posterior of another population.
    """
    if posterior is not None and posterior.population_version != space.population.version:
        raise ValueError(
            f"the posterior belongs to population {posterior.population_version!r}, the space to "
            f"{space.population.version!r}; rebuild the posterior from its events"
        )
    tilt = _gating(space.population, prompt_features)
    prior = space.prior if tilt is None else space.prior.tilted(tilt)
    if posterior is None or posterior.num_events == 0:
        return _explicit_route(space, prior, prior, wishes, "no_feedback")
    if wishes.strength == 0.0:
        pooled = Mixture(prior.weights, np.broadcast_to(prior.mean, prior.means.shape), 0.0 * prior.covariances)
        return _explicit_route(space, prior, pooled, wishes, "off")
    taste = posterior.taste if tilt is None else posterior.taste.tilted(tilt)
    return _personal_route(space, config, prior, taste, wishes)


def judge_of(population: Population, posterior: Posterior | None) -> Mixture:
    """Return the weights that judge for one person outside a request, base included; None is somebody unknown."""
    if posterior is None:
        prior = Mixture(population.mixture_weights, population.means, population.covariances)
        return prior.affine(1.0, population.base_weights)
    return posterior.taste.affine(1.0, population.base_weights)


def narrowing(taste: Mixture, prior: Mixture, direction: Array) -> float:
    """Measure how much of the doubt along `direction` (D,) is gone, 0 to 1: 1 − Var[w·d | feedback] / before.

    Before is the prior's variance or, for somebody farther out than it expects, the squared distance from its mean plus
    what is left: a person between two far prototypes may have more variance than the prior and still a clear direction.
    """
    after = float(direction @ taste.covariance @ direction)
    distance = float(direction @ (taste.mean - prior.mean))
    before = max(float(direction @ prior.covariance @ direction), distance**2 + after)
    return max(1.0 - after / before, 0.0) if before > 0.0 else 0.0


def _explicit_route(
    space: SteeringSpace, prior: Mixture, pooled: Mixture, wishes: Wishes, reason: SteeringReason
) -> Route:
    """Route by the caller's weights alone; without any, the zero route."""
    explicit = _explicit(space, wishes.weights)
    coefficients, dose = space.limited(explicit / space.lengths)
    return Route(
        mixture_weights=prior.weights,
        steering_coefficients=coefficients,
        dose=dose,
        certainty=0.0,
        prob_gain=0.5,
        adapter=None,
        steering="explicit" if explicit.any() else reason,
        taste=prior,
        pull_per_taste=0.0,
        anchor=prior.mean,
        judge=pooled.affine(1.0, space.population.base_weights + explicit * space.logits_per_weight),
    )


def _personal_route(
    space: SteeringSpace, config: RoutingConfig, prior: Mixture, taste: Mixture, wishes: Wishes
) -> Route:
    explicit = _explicit(space, wishes.weights)
    pooled = space.population.base_weights + (1.0 - wishes.strength) * prior.mean
    judge = taste.affine(wishes.strength, pooled + explicit * space.logits_per_weight)
    liked = taste.affine(1.0, space.population.base_weights)
    wanted = space.open_to(liked.mean)  # (D,)
    certainty = narrowing(liked, prior.affine(1.0, -prior.mean), wanted)  # from indifference
    prob_gain = liked.prob_positive(space.response @ wanted)
    is_on = prob_gain >= config.gate and bool(wanted.any())
    size = space.length(wanted) / space.typical  # 1: as far from indifference as a typical person is from the pool
    pull = wishes.strength * min(certainty / config.saturation, 1.0 / max(size, 1e-12)) / space.typical
    coefficients, dose = space.limited(pull * is_on * wanted + explicit / space.lengths)
    return Route(
        mixture_weights=taste.weights,
        steering_coefficients=coefficients,
        dose=dose,
        certainty=certainty,
        prob_gain=prob_gain,
        adapter=_adapter(taste.weights, space, config) if is_on else None,
        steering="on" if is_on else "gate",
        taste=taste,
        judge=judge,
        pull_per_taste=pull,
        anchor=taste.mean if is_on else -space.population.base_weights,
    )


def _explicit(space: SteeringSpace, weights: Mapping[str, float]) -> Array:
    """Place the caller's weights on the named rows of the basis, (D,)."""
    names = space.population.attribute_names
    explicit = np.zeros(space.population.num_features)
    for name, weight in weights.items():
        if not name or name not in names:
            known = ", ".join(sorted(filter(None, names))) or "none"
            raise ValueError(f"there is no attribute {name!r}; attributes: {known}")
        explicit[names.index(name)] = weight
    return explicit


def _gating(population: Population, prompt_features: Array | None) -> Array | None:
    """What the prompt adds to the log mixture weights, (K,); None without gating."""
    gating = population.gating_weights  # (K, Q + 1)
    if gating is None or prompt_features is None:
        return None
    if prompt_features.shape != (gating.shape[1] - 1,):
        raise ValueError(f"prompt_features must have shape ({gating.shape[1] - 1},), but has {prompt_features.shape}")
    return gating[:, :-1] @ prompt_features + gating[:, -1]


def _adapter(weights: Array, space: SteeringSpace, config: RoutingConfig) -> str | None:
    """Name the adapter of the leading prototype, if it leads clearly; a single prototype always does."""
    best = int(np.argmax(weights))
    lead = weights[best] - max((float(w) for k, w in enumerate(weights) if k != best), default=0.0)
    is_clear = weights[best] >= config.adapter_min_weight and lead >= config.adapter_margin
    return space.adapters[best] if is_clear else None
