"""What one request asks of the worker: coefficients over the shared directions, a dose, whether to pool its states.

It travels inside vLLM's `SamplingParams.extra_args` under one key, as plain numbers, so that it crosses process borders
without pickling. Imported by the caller, the scheduler and the worker alike; knows neither vLLM nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KEY = "palate"
_FIELDS = {"coeffs", "dose", "pool"}


@dataclass(frozen=True, slots=True)
class SteeringRequest:
    """One request's steering and measuring.

    Args:
        coeffs: (D,) weights of the directions; empty or all zero leaves the generation untouched.
        dose: length of the added vector as a share of each token's residual norm; `None` takes the length of
            `directions @ coeffs` as it is. The worker's `max_dose` caps either.
        pool: keep the running mean of the hidden states of the generated tokens.
    """

    coeffs: tuple[float, ...] = ()
    dose: float | None = None
    pool: bool = False

    def __post_init__(self) -> None:
        if not all(math.isfinite(coeff) for coeff in self.coeffs):
            raise ValueError("Steering coefficients must be finite numbers.")
        if self.dose is not None and not (math.isfinite(self.dose) and self.dose >= 0):
            raise ValueError(f"The dose is a share of the residual norm, at least 0; not {self.dose}.")

    @property
    def is_steered(self) -> bool:
        """Whether anything is added at all."""
        return self.dose != 0 and any(coeff != 0 for coeff in self.coeffs)

    def to_extra_args(self) -> dict[str, Any]:
        """Give `SamplingParams.extra_args`."""
        fields: dict[str, Any] = {"coeffs": list(self.coeffs), "pool": self.pool}
        if self.dose is not None:
            fields["dose"] = self.dose
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
    if not isinstance(coeffs, Sequence) or not isinstance(pool, bool):
        raise ValueError("'coeffs' is a list of numbers and 'pool' a boolean.")
    if not all(isinstance(number, int | float) for number in (*coeffs, dose or 0)):
        raise ValueError("'coeffs' and 'dose' take numbers.")
    return SteeringRequest(tuple(coeffs), dose, pool)


def may_be_steered(extra_args: Mapping[str, Any] | None) -> bool:
    """Decide whether a request's generated tokens need their own cache blocks; the unreadable counts as steered."""
    try:
        request = from_extra_args(extra_args)
    except ValueError:
        return True
    return request is not None and request.is_steered
