"""What one request asks of the worker: coefficients over the shared directions, a dose, what to read of its states.

It travels inside vLLM's `SamplingParams.extra_args` under one key, as plain numbers, so that it crosses process borders
without pickling. Imported by the caller, the scheduler and the worker alike; knows neither vLLM nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KEY = "palate"
_FIELDS = {"coeffs", "dose", "pool", "pool_from", "marks", "repetition_penalty", "tilt"}
MAX_REPETITION_PENALTY = 2.0
MAX_TILT = 1.0


@dataclass(frozen=True, slots=True)
class SteeringRequest:
    """One request's steering and measuring.

    Args:
        coeffs: (D,) weights of the directions; empty or all zero leaves the generation untouched.
        dose: length of the added vector as a share of each token's residual norm; `None` takes the length of
            `directions @ coeffs` as it is. The worker's `max_dose` caps either.
        pool: keep the running mean of the hidden states of the generated tokens.
        pool_from: position from which tokens are pooled; `None` for the end of the prompt.
        marks: numbers of pooled tokens at which the mean is kept besides, to be read later as it was then.
        repetition_penalty: by which logits of tokens that the answer has already are divided (multiplied below 0); 1
            to 2, 1 for none. The prompt's tokens are free.
        tilt: root mean square, over the tokens of plain answers, of what is added to logits along `coeffs`; 0 to 1.
    """

    coeffs: tuple[float, ...] = ()
    dose: float | None = None
    pool: bool = False
    pool_from: int | None = None
    marks: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    tilt: float = 0.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(coeff) for coeff in self.coeffs):
            raise ValueError("Steering coefficients must be finite numbers.")
        if self.dose is not None and not (math.isfinite(self.dose) and self.dose >= 0):
            raise ValueError(f"The dose is a share of the residual norm, at least 0; not {self.dose}.")
        if self.pool_from is not None and self.pool_from < 0:
            raise ValueError(f"pool_from is a position, at least 0; not {self.pool_from}.")
        if not 1.0 <= self.repetition_penalty <= MAX_REPETITION_PENALTY:
            raise ValueError(f"The repetition penalty is between 1 and 2; not {self.repetition_penalty}.")
        if not 0.0 <= self.tilt <= MAX_TILT:
            raise ValueError(f"The tilt is between 0 and 1; not {self.tilt}.")

    @property
    def is_steered(self) -> bool:
        """Whether anything is added to states at all."""
        return self.dose != 0 and any(coeff != 0 for coeff in self.coeffs)

    def to_extra_args(self) -> dict[str, Any]:
        """Give `SamplingParams.extra_args`."""
        fields: dict[str, Any] = {"coeffs": [float(coeff) for coeff in self.coeffs], "pool": self.pool}
        if self.dose is not None:
            fields["dose"] = self.dose
        if self.pool_from is not None:
            fields["pool_from"] = self.pool_from
        if self.repetition_penalty > 1.0:
            fields["repetition_penalty"] = self.repetition_penalty
        if self.tilt > 0.0:
            fields["tilt"] = self.tilt
        if self.marks:
            fields["marks"] = list(self.marks)
        return {KEY: fields}


def from_extra_args(extra_args: Mapping[str, Any] | None) -> SteeringRequest | None:
    """Read what `to_extra_args` wrote; `None` where the key is absent.

    Raises:
        ValueError: what is under the key cannot be read.
    """
    fields = (extra_args or {}).get(KEY)
    if fields is None:
        return None
    if not isinstance(fields, Mapping) or not set(fields) <= _FIELDS:
        raise ValueError(f"extra_args['{KEY}'] takes the keys {sorted(_FIELDS)}.")
    coeffs, dose, pool = fields.get("coeffs", ()), fields.get("dose"), fields.get("pool", False)
    pool_from, marks = fields.get("pool_from"), fields.get("marks", ())
    penalty, tilt = fields.get("repetition_penalty", 1.0), fields.get("tilt", 0.0)
    if not isinstance(coeffs, Sequence) or not isinstance(marks, Sequence) or not isinstance(pool, bool):
        raise ValueError("'coeffs' and 'marks' are lists of numbers and 'pool' a boolean.")
    if not all(isinstance(number, int | float) for number in (*coeffs, dose or 0, penalty, tilt)):
        raise ValueError("'coeffs', 'dose', 'repetition_penalty' and 'tilt' take numbers.")
    if not all(isinstance(number, int) for number in (*marks, pool_from or 0)):
        raise ValueError("'marks' and 'pool_from' take whole numbers.")
    return SteeringRequest(tuple(coeffs), dose, pool, pool_from, tuple(marks), penalty, tilt)


def may_be_steered(extra_args: Mapping[str, Any] | None) -> bool:
    """Decide whether a request's generated tokens need their own cache blocks; the unreadable counts as steered."""
    try:
        request = from_extra_args(extra_args)
    except ValueError:
        return True
    return request is not None and request.is_steered
