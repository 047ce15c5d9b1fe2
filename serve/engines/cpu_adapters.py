"""Mends of vLLM 0.32's adapters on CPUs. Knows nothing of steering.

A sequence without an adapter must not get somebody else's. vLLM marks tokens without an adapter by the index -1. Its
kernels for GPUs skip them; its torch functions for CPUs take the index as Python does, as the last adapter slot, and
add that adapter to base sequences of a mixed batch. Here what such tokens are projected to is zero: nothing is added.

Log-probabilities of a prompt must not end the engine. vLLM knows the adapter of each sequence's next token only, and
multiplies a prompt's many states with an adapter of the head by those few indices. Here such states pass by the head's
adapters, of which Palate's have none.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def mend_adapters() -> None:
    """Put the mends in place, once a process."""
    wrapper = punica_cpu.PunicaWrapperCPU
    if not getattr(wrapper.add_lora_logits, "is_mended", False):
        lora_ops.bgmv_shrink = punica_cpu.bgmv_shrink = _sparing(lora_ops.bgmv_shrink)
        wrapper.add_lora_logits = _of_next_tokens(wrapper.add_lora_logits)


def _sparing(shrink: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(shrink)
    def sparing(inputs: Tensor, weights: Tensor, output: Tensor, indices: Tensor, *args: Any, **kwargs: Any) -> None:
        shrink(inputs, weights, output, indices, *args, **kwargs)
        output[: len(indices)][indices[: len(output)] < 0] = 0.0

    return sparing


def _of_next_tokens(add: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(add)
    def adding(wrapper: Any, logits: Tensor, states: Tensor, *args: Any, **kwargs: Any) -> None:
        if len(states) == len(wrapper.sampler_indices):
            add(wrapper, logits, states, *args, **kwargs)

    adding.is_mended = True  # type: ignore[attr-defined]
    return adding
