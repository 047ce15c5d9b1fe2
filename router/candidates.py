"""Plan the N arms of a request: the untouched base, the person's own arm, and diverse neighbours of it.

Neighbours are tastes drawn from the posterior: low-discrepancy over prototypes, in orthogonal antithetic directions
within one (negatively correlated sampling), held in a cone around the person's own steering. Exploration
makes some arms Thompson draws: a whole draw, no cone. Deterministic given the generator. Knows nothing of engines or
of what adapters and instructions say.
"""

import math
from dataclasses import dataclass

import numpy as np

from router.mixture import Mixture
from router.routing import SteeringSpace
from router.types import Arm, Array, CandidatePlan, Route

MAX_ARMS = 32


@dataclass(frozen=True)
class PlanConfig:
    """How many arms and of what kind."""

    num_arms: int = 4  # N, 1 to 32
    spread: float = 0.25  # of neighbours: 1 draws from the posterior itself, 0 repeats the person's own arm
    min_cosine: float = 0.5  # between a neighbour's steering and the person's own: within 60 degrees
    explore: float = 0.0  # share of the arms beyond the base that are Thompson draws

    def __post_init__(self) -> None:
        if not 1 <= self.num_arms <= MAX_ARMS:
            raise ValueError(f"num_arms must be in 1..{MAX_ARMS}, but is {self.num_arms}")
        if not (math.isfinite(self.spread) and self.spread >= 0.0):
            raise ValueError(f"spread must be at least 0, but is {self.spread}")
        if not 0.0 <= self.min_cosine < 1.0:
            raise ValueError(f"min_cosine must be in [0, 1), but is {self.min_cosine}")
        if not 0.0 <= self.explore <= 1.0:
            raise ValueError(f"explore must be in [0, 1], but is {self.explore}")


def plan_candidates(
    route: Route, space: SteeringSpace, config: PlanConfig, rng: np.random.Generator, instruction: str | None = None
) -> CandidatePlan:
    """Plan the arms of one request: base, own, adapter, instruction, then neighbours, as far as N reaches.

    One arm alone is the person's own, or the base where nothing steers. Somebody unknown gets N base arms. The
    `instruction` is one of the shared list, see `pick_instruction`.
    """
    base = Arm("base", np.zeros(len(route.steering_coefficients)))
    num = config.num_arms
    if route.is_zero:
        return CandidatePlan((base,) * num)
    lead = () if num == 1 else (base,)
    num_thompson = round(config.explore * max(num - 1, 1))
    num_fixed = num - len(lead) - num_thompson
    special = _own_arms(route, instruction)[:num_fixed]
    neighbours = _neighbours(route, space, config, num_fixed - len(special), rng)
    arms = (*lead, *special, *neighbours, *_thompson(route, space, num_thompson, rng))
    return CandidatePlan((*arms, *(base,) * (num - len(arms))))


def pick_instruction(judge: Mixture, effects: Array, gate: float) -> int | None:
    """Pick the shared instruction with the highest expected gain, if it gains with probability `gate` or more.

    `effects` (I, D): mean shift of the reward features that each instruction causes, measured when the list was made.
    """
    if effects.ndim != 2 or effects.shape[1] != judge.means.shape[1]:
        raise ValueError(f"effects must have shape (any, {judge.means.shape[1]}), but has {effects.shape}")
    if len(effects) == 0:
        return None
    best = int(np.argmax(effects @ judge.mean))
    return best if judge.prob_positive(effects[best]) >= gate else None


def draw_tastes(taste: Mixture, num: int, spread: float, rng: np.random.Generator) -> Array:
    """Draw `num` diverse tastes (num, D), negatively correlated, each from the posterior shrunk by `spread`.

    Prototypes by systematic sampling; within one, pairs ±L·z along directions orthogonal between pairs. Each z is
    exactly N(0, I): a uniformly random direction times a chi-distributed length.
    """
    num_pairs, D = (num + 1) // 2, len(taste.mean)
    levels = (np.arange(num_pairs) + rng.uniform()) / max(num_pairs, 1)
    ranked = np.minimum(np.searchsorted(np.cumsum(taste.weights), levels), len(taste.weights) - 1)  # (pairs,)
    prototypes = rng.permutation(ranked)  # so that every arm, not only the whole plan, is a draw from the mixture
    blocks = [_orthonormal(D, rng) for _ in range(-(-num_pairs // D))]
    directions = np.concatenate([np.zeros((0, D)), *blocks])[:num_pairs]
    z = directions * np.sqrt(rng.chisquare(D, num_pairs))[:, None]  # (pairs, D)
    steps = np.einsum("pij,pj->pi", taste.factors[prototypes], z)
    signs = np.array([1.0, -1.0])[None, :, None]
    draws = (taste.means[prototypes][:, None] + signs * steps[:, None]).reshape(-1, D)[:num]
    return np.asarray(taste.mean + spread * (draws - taste.mean))


def _own_arms(route: Route, instruction: str | None) -> tuple[Arm, ...]:
    still = np.zeros(len(route.steering_coefficients))
    arms: list[Arm] = []
    if route.dose > 0.0:
        arms.append(Arm("steered", route.steering_coefficients, route.dose))
    if route.adapter is not None:
        arms.append(Arm("adapter", still, adapter=route.adapter))
    if instruction is not None:
        arms.append(Arm("instruction", still, instruction=instruction))
    return tuple(arms)


def _neighbours(
    route: Route, space: SteeringSpace, config: PlanConfig, num: int, rng: np.random.Generator
) -> list[Arm]:
    """Steer as people near this one would like it, at the person's own dose; nobody where the person is not steered."""
    if num <= 0 or route.dose == 0.0 or route.pull_per_taste == 0.0 or route.steering != "on":
        return []
    tastes = draw_tastes(route.taste, num, config.spread, rng)
    own = route.steering_coefficients
    moved = own + route.pull_per_taste * (tastes - route.anchor) * space.mask  # (num, D)
    length = space.length(own)
    arms = []
    for coefficients in moved:
        inside = _into_cone(coefficients, own / length, space, config.min_cosine)
        arms.append(Arm("steered", *space.limited(inside * (length / space.length(inside)))))
    return arms


def _into_cone(coefficients: Array, axis: Array, space: SteeringSpace, min_cosine: float) -> Array:
    """Turn coefficients (D,) towards the unit `axis` until their cosine with it is at least `min_cosine`."""
    along = float(coefficients @ space.dose_metric @ axis)
    across = coefficients - along * axis
    width = space.length(across)
    if along > 0.0 and along >= min_cosine * math.hypot(along, width):
        return coefficients
    if width < 1e-12:  # straight against the axis: there is no side to turn to
        return axis
    return min_cosine * axis + math.sqrt(1.0 - min_cosine**2) * across / width


def _thompson(route: Route, space: SteeringSpace, num: int, rng: np.random.Generator) -> list[Arm]:
    arms = []
    for taste in draw_tastes(route.taste, num, 1.0, rng):
        moved = route.steering_coefficients + route.pull_per_taste * (taste - route.anchor) * space.mask
        coefficients, dose = space.limited(moved)
        if dose > 0.0:
            arms.append(Arm("steered", coefficients, dose))
    return arms


def _orthonormal(size: int, rng: np.random.Generator) -> Array:
    """Draw a uniformly random orthonormal basis (D, D); the sign rule makes it uniform (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return np.asarray(q * np.sign(np.diag(r)))
