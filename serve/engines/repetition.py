"""Make tokens less likely that an answer has already.

vLLM's own penalty counts over the vocabulary for each sequence and step; this remembers each answer's tokens from step
to step and touches those alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(slots=True)
class SaidTokens:
    """The different tokens of one answer so far."""

    penalty: float  # above 1
    tokens: array[int] = field(default_factory=lambda: array("q"))
    _known: set[int] = field(default_factory=set)
    _num_read: int = 0

    def read(self, output: Sequence[int]) -> None:
        """Take in what was drawn since the last step of all that was drawn; below 0 stands what is not known yet."""
        self._num_read = min(self._num_read, len(output))
        for token in output[self._num_read :]:
            if token < 0:
                break
            self._num_read += 1
            if token not in self._known:
                self._known.add(token)
                self.tokens.append(token)


def penalise(logits: Tensor, said: Sequence[tuple[int, SaidTokens]]) -> None:
    """Divide what rows of logits (B, V) give to tokens said by the row's penalty, in place; multiply those below 0.

    `said` has (row, answer) pairs, no row twice. Source: CTRL (Keskar et al. 2019).
    """
    counts = [len(answer.tokens) for _, answer in said]
    if not any(counts):
        return
    columns = np.concatenate([np.frombuffer(answer.tokens, np.int64) for _, answer in said if answer.tokens])
    where = torch.from_numpy(np.stack([np.repeat([row for row, _ in said], counts), columns])).to(logits.device)
    factors = torch.from_numpy(np.repeat([answer.penalty for _, answer in said], counts)).to(logits)
    found = logits[where[0], where[1]]
    logits[where[0], where[1]] = torch.where(found > 0, found / factors, found * factors)
