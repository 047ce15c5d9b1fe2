"""One judgement from elsewhere, as it will be sent to `/v1/feedback`. Knows no file formats and no servers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What somebody thought of some answers to a prompt."""

    user: str
    prompt: str | tuple[Message, ...]
    candidates: tuple[str, ...]
    kind: str  # comparison, ranking, rating, thumb
    value: int | tuple[int, ...]
    source: str  # the collection's name
    reason: str | None = None
    choice: int = 0  # of the candidates, for a rating or thumb
    metadata: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Render the request; the same judgement always has the same idempotency key."""
        plain: dict[str, Any] = {
            "kind": self.kind,
            "user": self.user,
            "prompt": self.prompt if isinstance(self.prompt, str) else list(self.prompt),
            "candidates": list(self.candidates),
            "value": self.value if isinstance(self.value, int) else list(self.value),
            "metadata": {"source": self.source, **self.metadata},
        }
        if self.kind in ("rating", "thumb"):
            plain["choice"] = self.choice
        if self.reason:
            plain["reason"] = self.reason
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]
        return {**plain, "idempotency_key": f"import:{self.source}:{digest}"}


def by_scores(scores: Sequence[float | None], chosen: int | None = None) -> tuple[str, int | tuple[int, ...]] | None:
    """Say what scores say: a ranking where all differ, else which is best, if one is.

    `chosen` breaks a tie at the top, or speaks where scores are missing. None if nothing is preferred to anything.
    """
    known = [score for score in scores if score is not None]
    if len(scores) < 2:
        return None
    if len(known) == len(scores) == len(set(known)):
        order = sorted(range(len(scores)), key=lambda index: -known[index])
        return ("comparison", order[0]) if len(order) == 2 else ("ranking", tuple(order))
    best = [index for index, score in enumerate(scores) if known and score == max(known)]
    if chosen is not None and (chosen in best or not known):
        return "comparison", chosen
    return ("comparison", best[0]) if len(best) == 1 and len(known) == len(scores) else None
