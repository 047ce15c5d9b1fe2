"""The tap: one custom op after a decoder layer that adds steering vectors to, and sums, the residual stream.

Pure tensor work over persistent buffers, `h[t] += size[t] * bank[row[t]]` and `sums[row[t]] += h[t]`, so that
torch.compile and CUDA graphs can hold it; row 0 belongs to nobody. States are summed *before* the vector of the same
layer is added. Knows nothing about requests: `SequenceStates` decides which row a token belongs to.
"""

from __future__ import annotations

from typing import Any

import torch
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
    steer, pool = rows.unbind()
    stream = hidden.float() if residual is None else hidden.to(torch.float32, copy=True).add_(residual)
    sums.index_add_(0, pool, stream)
    length, share = caps.index_select(0, steer).unbind(dim=1)  # (T,)
    size = torch.minimum(length, torch.linalg.vector_norm(stream, dim=1).mul_(share))
    hidden.addcmul_(size[:, None], bank.index_select(0, steer))


@torch.library.register_fake("palate::tap")  # type: ignore[untyped-decorator]
def _tap_fake(*args: Any) -> None:
    return None


class Tap(nn.Module):
    """The buffers of one tapped layer; `bank` and `caps` are shared by all taps of a model."""

    def __init__(self, max_tokens: int, bank: Tensor, caps: Tensor) -> None:
        super().__init__()
        self.is_idle = True
        self.rows: Tensor
        self.bank: Tensor
        self.caps: Tensor
        self.sums: Tensor
        rows = torch.zeros(2, max_tokens, dtype=torch.int64, device=bank.device)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("caps", caps, persistent=False)
        self.register_buffer("sums", torch.zeros_like(bank), persistent=False)

    def set_rows(self, rows: Tensor) -> None:
        """Say which row each token of the coming step has for steering and for summing, (2, T)."""
        self.rows[:, : rows.shape[1]].copy_(rows)
        self.is_idle = False

    def clear_rows(self, num_tokens: int) -> None:
        """Give all tokens to nobody again."""
        self.rows[:, :num_tokens].zero_()
        self.is_idle = True

    def forward(self, hidden: Tensor, residual: Tensor | None) -> None:
        """Steer and sum in place."""
        torch.ops.palate.tap(hidden, residual, self.rows, self.bank, self.caps, self.sums)


def attach(layer: nn.Module, tap: Tap) -> None:
    """Let `tap` see all that `layer` puts out. To be compiled in, it must be there before the first forward."""
    layer.add_module("palate_tap", tap)
    layer.register_forward_hook(_tap_output)


def _tap_output(layer: nn.Module, _args: Any, output: Tensor | tuple[Tensor, ...]) -> None:
    tap = layer.get_submodule("palate_tap")
    hidden, residual = (output, None) if isinstance(output, torch.Tensor) else output[:2]
    # Only eager CPU may leave the op out: what is traced or captured now is replayed when the tap is in use.
    if not torch.compiler.is_compiling() and hidden.device.type == "cpu" and tap.is_idle:
        return
    tap(hidden, residual)


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
