"""The taps: after a decoder layer they add steering vectors to the residual stream, and sum it, token by token.

`h[t] += size[t] * bank[row[t]]` and `sums[row[t]] += h[t]`; row 0 belongs to nobody. States are summed *before* the
vector of the same layer is added. `Tap` is one custom op over persistent buffers, so that torch.compile and CUDA graphs
can hold it; `EagerTap` does the same where the host may look before each step, and does less. Knows nothing about
requests: `SequenceStates` decides which row a token belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SCHEMA = "(Tensor(a!) hidden, Tensor? residual, Tensor rows, Tensor bank, Tensor caps, Tensor(b!) sums) -> ()"
torch.library.define("palate::tap", SCHEMA)


@torch.library.impl("palate::tap", "CompositeExplicitAutograd")
def _tap(
    hidden: Tensor,  # (T, H), in the model's dtype; changed in place
    residual: Tensor | None,  # (T, H); the stream is hidden + residual where the layer keeps them apart
    rows: Tensor,  # (2, max_tokens), each token's row for steering and its row for summing
    bank: Tensor,  # (rows, H), unit vectors
    caps: Tensor,  # (rows, 2), length, and length as a share of the residual norm; the smaller one holds
    sums: Tensor,  # (rows, H); changed in place
) -> None:
    rows = rows[:, : len(hidden)]
    if hidden.device.type != "cpu":
        steer_and_sum(hidden, residual, rows, bank, caps, sums)
        return
    # On CPU prompts are long and the host sees the rows: leave out what is nobody's. Graph capture could not.
    owned = rows.amax(dim=0).nonzero()[:, 0]
    if len(owned) == len(hidden):
        steer_and_sum(hidden, residual, rows, bank, caps, sums)
    elif len(owned):
        part = hidden[owned]
        steer_and_sum(part, None if residual is None else residual[owned], rows[:, owned], bank, caps, sums)
        hidden[owned] = part


def steer_and_sum(
    hidden: Tensor, residual: Tensor | None, rows: Tensor, bank: Tensor, caps: Tensor, sums: Tensor
) -> None:
    """Do the tap's work on (T, H) states with the rows (2, T)."""
    steer_rows, pool_rows = rows.unbind()
    stream = stream_of(hidden, residual)
    sums.index_add_(0, pool_rows, stream)
    steer(hidden, stream, bank.index_select(0, steer_rows), caps.index_select(0, steer_rows))


def stream_of(hidden: Tensor, residual: Tensor | None) -> Tensor:
    """Return the residual stream (T, H), in float32 and of its own."""
    stream = hidden.to(torch.float32, copy=True)
    return stream if residual is None else stream.add_(residual)


def steer(hidden: Tensor, stream: Tensor, vectors: Tensor, caps: Tensor) -> None:
    """Add to each token of `hidden` its unit vector (T, H), as long as its caps (T, 2) allow in this stream."""
    length, share = caps.unbind(dim=1)
    size = torch.minimum(length, torch.linalg.vector_norm(stream, dim=1).mul_(share))
    hidden.addcmul_(size[:, None], vectors)


@torch.library.register_fake("palate::tap")  # type: ignore[untyped-decorator]
def _tap_fake(*args: Any) -> None:
    return None


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """The tokens of one step, known before it runs."""

    rows: NDArray[np.int64]  # (2, T), each token's row for steering and its row for summing
    owned: Tensor | None  # (S,), the tokens that are somebody's; None where all are
    steer_rows: Tensor  # (S,)
    pool_rows: Tensor  # (S,)
    is_steered: bool

    @classmethod
    def of(cls, rows: NDArray[np.int64]) -> Step:
        """Take the rows of a step's tokens."""
        (tokens,) = np.nonzero(rows.any(axis=0))
        is_all = len(tokens) == rows.shape[1]
        steer_rows, pool_rows = torch.from_numpy(rows if is_all else rows[:, tokens])
        owned = None if is_all else torch.from_numpy(tokens)
        return cls(rows, owned, steer_rows, pool_rows, bool(rows[0].any()))


class LayerTap(Protocol):
    """One tapped layer."""

    sums: Tensor  # (rows, H)

    def attach(self, layer: nn.Module) -> None:
        """See all that a layer puts out. To be compiled in, a tap must be there before the first forward."""

    def use_for(self, *, steering: bool, summing: bool) -> None:
        """Set what this layer does."""

    def begin(self, step: Step) -> None:
        """Take the step that comes. The same object again says that rows and their vectors are the same."""

    def end(self) -> None:
        """Let the step go; its states are in `sums` now."""

    def __call__(self, hidden: Tensor, residual: Tensor | None) -> None:
        """Steer in place and sum."""


class Tap(nn.Module):
    """The buffers of one tapped layer, as graphs need them; `bank` and `caps` are shared by all taps of a model."""

    def __init__(self, max_tokens: int, bank: Tensor, caps: Tensor) -> None:
        super().__init__()
        self.rows: Tensor
        self.bank: Tensor
        self.caps: Tensor
        self.sums: Tensor
        rows = torch.zeros(2, max_tokens, dtype=torch.int64, device=bank.device)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("caps", caps, persistent=False)
        self.register_buffer("sums", torch.zeros_like(bank), persistent=False)
        self._does = np.ones((2, 1), dtype=np.int64)
        self._num_tokens = 0

    def attach(self, layer: nn.Module) -> None:
        """Become a part of the layer."""
        layer.add_module("palate_tap", self)
        layer.register_forward_hook(_tap_output)

    def use_for(self, *, steering: bool, summing: bool) -> None:
        """Set what this layer does; for the other it gets nobody's rows."""
        self._does = np.array([[steering], [summing]], dtype=np.int64)

    def begin(self, step: Step) -> None:
        """Fill the buffer."""
        self._num_tokens = step.rows.shape[1]
        self.rows[:, : self._num_tokens].copy_(torch.from_numpy(step.rows * self._does))

    def end(self) -> None:
        """Give all tokens to nobody: warm-up and padding tokens, which run through the same buffer, are nobody's."""
        self.rows[:, : self._num_tokens].zero_()

    def forward(self, hidden: Tensor, residual: Tensor | None) -> None:
        """Steer and sum in place."""
        torch.ops.palate.tap(hidden, residual, self.rows, self.bank, self.caps, self.sums)


def _tap_output(layer: nn.Module, _args: Any, output: Tensor | tuple[Tensor, ...]) -> None:
    layer.get_submodule("palate_tap")(*_parts(output))


class EagerTap:
    """One tapped layer of an eager model on a CPU: leaves out what a step does not need.

    Between two layers' weights, which sweep the caches, a kernel costs ten times what it costs in a loop. So layers
    only put their states aside, and all are summed together when the step is over.
    """

    def __init__(self, bank: Tensor, caps: Tensor) -> None:
        self.sums = torch.zeros_like(bank)
        self._bank, self._caps = bank, caps
        self._steers = self._sums_up = True
        self._step: Step | None = None
        self._prepared: tuple[Step, Tensor, Tensor] | None = None  # vectors (S, H) and caps (S, 2) of a step
        self._kept: tuple[Tensor, Tensor | None] | None = None

    def attach(self, layer: nn.Module) -> None:
        """See what the layer puts out."""
        layer.register_forward_hook(self._see)

    def use_for(self, *, steering: bool, summing: bool) -> None:
        """Set what this layer does."""
        self._steers, self._sums_up = steering, summing

    def begin(self, step: Step) -> None:
        """Take the step that comes."""
        self._step = step

    def end(self) -> None:
        """Sum what was kept."""
        if self._step is not None and self._kept is not None and self._sums_up:
            self.sums.index_add_(0, self._step.pool_rows, stream_of(*self._kept))
        self._step = self._kept = None

    def _see(self, _layer: nn.Module, _args: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        if self._step is not None:
            self(*_parts(output))

    def __call__(self, hidden: Tensor, residual: Tensor | None) -> None:
        """Steer in place; keep the states, which later layers overwrite."""
        step = self._step
        if step is None:
            return
        num_tokens, owned = step.rows.shape[1], step.owned
        if len(hidden) != num_tokens:  # padding
            hidden, residual = hidden[:num_tokens], _picked(residual, slice(num_tokens))
        part, rest = (hidden, residual) if owned is None else (hidden[owned], _picked(residual, owned))
        if self._steers and step.is_steered:
            self._kept = stream_of(part, rest), None
            steer(part, self._kept[0], *self._vectors_and_caps(step))
            if owned is not None:
                hidden[owned] = part
        elif self._sums_up:
            self._kept = part.clone(), None if rest is None else rest.clone()

    def _vectors_and_caps(self, step: Step) -> tuple[Tensor, Tensor]:
        if self._prepared is None or self._prepared[0] is not step:
            self._prepared = step, self._bank[step.steer_rows], self._caps[step.steer_rows]
        return self._prepared[1:]


def _picked(states: Tensor | None, tokens: Tensor | slice) -> Tensor | None:
    return None if states is None else states[tokens]


def _parts(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    return (output, None) if isinstance(output, torch.Tensor) else (output[0], output[1])


def decoder_layers(model: nn.Module, num_layers: int) -> nn.ModuleList:
    """Find the model's decoder layers.

    Raises:
        ValueError: no list of `num_layers` layers is there, or more than one.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == num_layers]
    if len(lists) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(lists)} lists of {num_layers} layers; steering needs exactly one. "
            "Serve it without steering."
        )
    return lists[0]
