"""The values the preference model works on, one file a concept; import them from here.

Frozen dataclasses over float64 arrays, whose shapes are checked at construction. Knows nothing about how any of them is
fitted, chosen, stored or sent.
"""

from router.types.arrays import Array, as_array
from router.types.events import Choice, Comparison, Event, Ranking, Rating, Thumb
from router.types.plans import ARM_KINDS, Arm, ArmKind, CandidatePlan, Route, SteeringReason
from router.types.population import Population
from router.types.posterior import Evidence, Posterior

__all__ = [
    "ARM_KINDS",
    "Arm",
    "ArmKind",
    "Array",
    "CandidatePlan",
    "Choice",
    "Comparison",
    "Event",
    "Evidence",
    "Population",
    "Posterior",
    "Ranking",
    "Rating",
    "Route",
    "SteeringReason",
    "Thumb",
    "as_array",
]
