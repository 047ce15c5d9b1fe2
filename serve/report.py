"""How an answer came about, in words and numbers: the response's `palate`.

Filled in along the request's way; knows nothing of how any of it was decided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from router.types import Arm, Array, Route
from serve.artifacts.artifact import Artifact
from serve.engines.protocol import Verdict

MAX_ATTRIBUTES = 5  # named in a report


@dataclass(slots=True)
class Report:
    """How an answer came about; becomes the response's `palate`."""

    reason: str
    is_personalized: bool = False
    artifact: str | None = None
    experiment: tuple[str, str] | None = None  # name, arm
    routes: tuple[Route, ...] = ()
    attributes: dict[str, float] = field(default_factory=dict)
    arms: tuple[Arm, ...] = ()
    verdict: Verdict | None = None
    routing_s: float = 0.0
    degraded: str | None = None
    explain: bool = False
    num_tokens: int = 0  # read, where texts were judged

    @property
    def is_worth_telling(self) -> bool:
        """Whether a stream's last chunk carries it; requests without a person stay exactly OpenAI's."""
        return self.reason != "no_user"

    def to_json(self) -> dict[str, Any]:
        """Render it."""
        plain: dict[str, Any] = {"personalized": self.is_personalized, "reason": self.reason, "artifact": self.artifact}
        if self.experiment:
            plain["experiment"] = {"name": self.experiment[0], "arm": self.experiment[1]}
        if self.degraded:
            plain["degraded"] = self.degraded
        if self.routes:
            route = self.routes[0]
            plain |= {
                "mixture_weights": _rounded(route.mixture_weights),
                "certainty": round(route.certainty, 4),
                "steering": route.steering,
                "dose": round(max((arm.dose for arm in self.arms), default=0.0), 4),
                "attributes": self.attributes,
            }
        overhead = {"routing": round(1e3 * self.routing_s, 3)}
        verdict = self.verdict
        if verdict is not None:
            winner = verdict.order[0]
            overhead["choosing"] = round(1e3 * verdict.choosing_s, 3)
            plain |= {
                "choice": {
                    "arm": winner,
                    "kind": self.arms[winner].kind,
                    "reason": verdict.reason,
                    "prob_over_base": round(verdict.prob_over_base, 4),
                },
                "num_candidates": len(self.arms),
                "candidate_tokens": sum(verdict.num_tokens),
            }
            if self.explain:
                plain["candidates"] = [self._candidate(index, verdict) for index in range(len(self.arms))]
        plain["overhead_ms"] = overhead
        return plain

    def _candidate(self, index: int, verdict: Verdict) -> dict[str, Any]:
        arm = self.arms[index]
        return {
            "arm": index,
            "kind": arm.kind,
            "dose": round(arm.dose, 4),
            "reward": _finite(verdict.rewards[index]),
            "std": _finite(verdict.stds[index]),
            "penalty": _finite(verdict.penalties[index]),
            "is_vetoed": math.isinf(verdict.penalties[index]),
            "num_tokens": verdict.num_tokens[index],
        }


def strongest(route: Route, artifact: Artifact) -> dict[str, float]:
    """Name the strongest wishes: logits of reward per standard deviation of the attribute, beyond everyone's."""
    taste = route.judge.mean - artifact.population.base_weights
    values = {name: round(float(taste @ direction), 4) for name, direction in artifact.attribute_directions.items()}
    ranked = sorted(values, key=lambda name: -abs(values[name]))
    return {name: values[name] for name in ranked[:MAX_ATTRIBUTES] if values[name]}


def _rounded(values: Array) -> list[float]:
    return [round(float(value), 4) for value in values]


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
