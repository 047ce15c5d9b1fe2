"""Feedback as values: comparisons, choices, rankings, thumbs and ratings over reward features.

Knows nothing of how likely any of them is, or of the people who gave them. Letter: D reward features.
"""

from dataclasses import dataclass

import numpy as np

from router.types.arrays import Array, freeze


@dataclass(frozen=True, eq=False, kw_only=True)
class Event:
    """What every piece of feedback carries. `target` names the completion: a later event on it replaces the earlier."""

    event_id: str
    weight: float = 1.0  # 1 for what a person said; less for what was only observed (implicit signals)
    target: str = ""  # "" stands for itself and replaces nothing
    time_s: float = 0.0  # seconds since any fixed moment; matters only with drift

    def __post_init__(self) -> None:
        if not self.event_id:
            raise ValueError("event_id must not be empty")
        if not (np.isfinite(self.weight) and self.weight > 0.0):
            raise ValueError(f"weight must be positive and finite, but is {self.weight}")
        if not np.isfinite(self.time_s):
            raise ValueError("time_s must be finite")


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison(Event):
    """One response preferred to another; edits and demonstrations are one over what was shown."""

    chosen: Array  # (D,)
    rejected: Array  # (D,)

    def __post_init__(self) -> None:
        super().__post_init__()
        freeze(self, "rejected", freeze(self, "chosen", (None,)).shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Choice(Event):
    """One response preferred to each of several others, about whose order nothing was said."""

    chosen: Array  # (D,)
    rejected: Array  # (n, D), n >= 1

    def __post_init__(self) -> None:
        super().__post_init__()
        D = freeze(self, "chosen", (None,)).shape[0]
        if freeze(self, "rejected", (None, D)).shape[0] < 1:
            raise ValueError("a choice needs at least one rejected response")


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking(Event):
    """Responses from best to worst (Plackett-Luce)."""

    features: Array  # (n, D), n >= 2, best first

    def __post_init__(self) -> None:
        super().__post_init__()
        if freeze(self, "features", (None, None)).shape[0] < 2:
            raise ValueError("a ranking needs at least two responses")


@dataclass(frozen=True, eq=False, kw_only=True)
class Thumb(Event):
    """A thumb up (+1) or down (-1), judged against the mean of the request's own candidates."""

    features: Array  # (D,)
    reference: Array  # (D,) mean features of the request's candidates
    value: int

    def __post_init__(self) -> None:
        super().__post_init__()
        freeze(self, "reference", freeze(self, "features", (None,)).shape)
        if self.value not in (-1, 1):
            raise ValueError(f"a thumb's value is 1 (up) or -1 (down), not {self.value}")


@dataclass(frozen=True, eq=False, kw_only=True)
class Rating(Event):
    """An ordered level, 0 the worst; there is one level more than the population has rating cuts."""

    features: Array  # (D,)
    reference: Array  # (D,)
    level: int

    def __post_init__(self) -> None:
        super().__post_init__()
        freeze(self, "reference", freeze(self, "features", (None,)).shape)
        if self.level < 0:
            raise ValueError(f"level counts from 0, but is {self.level}")
