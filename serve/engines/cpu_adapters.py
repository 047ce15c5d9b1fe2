"""Mend of vLLM 0.32's adapters on CPUs: a sequence without an adapter must not get somebody else's.

vLLM marks tokens without an adapter by the index -1. Its kernels for GPUs skip them; its torch functions for CPUs take
the index as Python does, as the last adapter slot, and add that adapter to base sequences of a mixed batch. Here what
such tokens are projected to is zero, so nothing is added. Knows nothing of steering.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def spare_the_base() -> None:
    """Put the mend in place, once a process."""
    if not getattr(lora_ops.bgmv_shrink, "spares_the_base", False):
        lora_ops.bgmv_shrink = punica_cpu.bgmv_shrink = _sparing(lora_ops.bgmv_shrink)


def _sparing(shrink: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(shrink)
    def sparing(inputs: Tensor, weights: Tensor, output: Tensor, indices: Tensor, *args: Any, **kwargs: Any) -> None:
        shrink(inputs, weights, output, indices, *args, **kwargs)
        output[: len(indices)][indices[: len(output)] < 0] = 0.0

    sparing.spares_the_base = True  # type: ignore[attr-defined]
    return sparing
