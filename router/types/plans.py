"""How a request is to be answered: its route, its arms, and the plan that holds them.

Knows nothing of how any of them is chosen. Letters: K prototypes, D reward features, N arms.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from router.mixture import Mixture
from router.types.arrays import Array, check_simplex, freeze

ArmKind = Literal["base", "steered", "adapter", "instruction"]
SteeringReason = Literal["on", "explicit", "gate", "no_feedback", "off"]
ARM_KINDS = ("base", "steered", "adapter", "instruction")


@dataclass(frozen=True, eq=False)
class Route:
    """How a person's answers are to be generated and judged.

    The steering vector is `dose` times the residual norm along `C @ steering_coefficients`; the length of the
    coefficients themselves means nothing.
    """

    mixture_weights: Array  # (K,), on the simplex
    steering_coefficients: Array  # (D,) coefficients of the shared directions; exactly 0 without steering
    dose: float  # length of the steering vector relative to the residual norm, >= 0
    certainty: float  # [0, 1], how much of the prior's doubt about this taste is gone
    prob_gain: float  # [0, 1], P(steering along the inferred taste gains | posterior)
    adapter: str | None
    steering: SteeringReason  # why the inferred taste steers or does not
    taste: Mixture  # w under this prompt
    judge: Mixture  # weights that score the candidates: base, w at the request's strength, explicit weights
    pull_per_taste: (
        float  # coefficients per unit of taste: a neighbour's are these + pull_per_taste·(its taste − anchor)
    )
    anchor: Array  # (D,) the taste that the coefficients stand for

    def __post_init__(self) -> None:
        K, D = self.taste.means.shape
        check_simplex("mixture_weights", freeze(self, "mixture_weights", (K,)))
        freeze(self, "steering_coefficients", (D,))
        freeze(self, "anchor", (D,))
        if self.judge.means.shape[1] != D:
            raise ValueError(f"the judge must have {D} features as the taste has")
        if not (np.isfinite(self.dose) and self.dose >= 0.0):
            raise ValueError(f"dose must be at least 0, but is {self.dose}")
        if not (0.0 <= self.certainty <= 1.0 and 0.0 <= self.prob_gain <= 1.0):
            raise ValueError(f"certainty and prob_gain must be in [0, 1], but are {self.certainty}, {self.prob_gain}")

    @property
    def is_zero(self) -> bool:
        """Whether this request is exactly the base model's: nothing is known of the person and nothing asked for."""
        return self.steering in ("no_feedback", "off")

    @property
    def is_steered(self) -> bool:
        """Whether answers are generated otherwise than by the untouched base model."""
        return self.dose > 0.0 or self.adapter is not None


@dataclass(frozen=True, eq=False)
class Arm:
    """One candidate's way of being generated."""

    kind: ArmKind
    steering_coefficients: Array  # (D,), zero unless steered
    dose: float = 0.0  # as in Route
    adapter: str | None = None
    instruction: str | None = None  # from the shared list, never a person's text

    def __post_init__(self) -> None:
        freeze(self, "steering_coefficients", (None,))
        if self.kind not in ARM_KINDS:
            raise ValueError(f"kind must be one of {', '.join(ARM_KINDS)}, but is {self.kind!r}")
        if not (np.isfinite(self.dose) and self.dose >= 0.0):
            raise ValueError(f"dose must be at least 0, but is {self.dose}")
        if (self.kind == "adapter") != (self.adapter is not None):
            raise ValueError("an adapter is named by arms of kind 'adapter', and by no others")
        if (self.kind == "instruction") != (self.instruction is not None):
            raise ValueError("an instruction is given by arms of kind 'instruction', and by no others")
        if self.kind == "base" and (self.dose or self.steering_coefficients.any()):
            raise ValueError("the base arm is not steered")


@dataclass(frozen=True, eq=False)
class CandidatePlan:
    """The N arms of one request; the first is the untouched base model wherever there is a choice (N > 1)."""

    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        if not self.arms:
            raise ValueError("a plan needs at least one arm")
        if len(self.arms) > 1 and self.arms[0].kind != "base":
            raise ValueError("the first of several arms must be of kind 'base'")

    @property
    def num_arms(self) -> int:
        """N, the number of candidates."""
        return len(self.arms)
