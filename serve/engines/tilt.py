"""Make tokens likelier that go with what steering is after: logits tilted along the coefficients.

Tilting answers by exp(r·φ), which moves states along the directions, moves logits too: to first order by what each
token says of the features, E[φ | token]·r. A vector bends how an answer goes on and costs in the tail of unlikely
tokens, a tilt chooses among likely ones; both together move more at the same cost. Runs in vLLM's worker; knows nothing
of requests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from serve.engines.worker_messages import TokenFeatures

MAX_BIAS = 1.5  # nats, of any single token


class TokenTilt:
    """The token features of one configuration, on the device."""

    def __init__(self, features: TokenFeatures, device: torch.device) -> None:
        """Take them there."""
        self._tokens = torch.from_numpy(features.tokens).to(device)  # (T,)
        self._shares = torch.from_numpy(features.shares).to(device)  # (T,)
        self._features = torch.from_numpy(features.features).to(device)  # (T, P)

    def bias(self, coeffs: Sequence[float], size: float) -> Tensor:
        """Return what is added to the tokens' logits (T,): `size` is its root mean square over plain answers."""
        raw = self._features @ torch.tensor(coeffs, device=self._features.device, dtype=self._features.dtype)
        length = torch.sqrt(self._shares @ raw.square())
        return (raw * (size / length.clamp(min=1e-12))).clamp(-MAX_BIAS, MAX_BIAS)

    def add(self, logits: Tensor, rows: Sequence[int], biases: Sequence[Tensor]) -> None:
        """Add biases (n of (T,)) to n rows of logits (B, V), in place; no row twice."""
        where = torch.tensor(rows, device=logits.device)[:, None], self._tokens[None]
        logits[where] += torch.stack(list(biases)).to(logits)
