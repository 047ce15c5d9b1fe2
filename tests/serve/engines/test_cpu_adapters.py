"""Tokens without an adapter get nothing added, whatever lies in the last slot."""

from __future__ import annotations

import pytest
import torch

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def test_tokens_without_an_adapter_are_spared() -> None:
    from vllm.lora.ops.torch_ops import lora_ops

    from serve.engines.cpu_adapters import spare_the_base

    spare_the_base()
    spare_the_base()  # safe twice
    generator = torch.Generator().manual_seed(0)
    inputs, weights = torch.randn(4, 6, generator=generator), torch.randn(2, 1, 3, 6, generator=generator)
    output = torch.ones(4, 3)
    lora_ops.bgmv_shrink(inputs, weights, output, torch.tensor([0, -1, 1, -1]), 2.0)
    expected = torch.stack(
        [2.0 * weights[0, 0] @ inputs[0], torch.zeros(3), 2.0 * weights[1, 0] @ inputs[2], torch.zeros(3)]
    )
    torch.testing.assert_close(output, expected)
    prefill = torch.ones(4, 3)
    starts, lengths = torch.tensor([0, 3]), torch.tensor([3, 1])
    lora_ops.sgmv_shrink(inputs, weights, prefill, starts, lengths, torch.tensor([-1, 1]), 2, 3, 4, 2.0)
    assert not prefill[:3].any()
    torch.testing.assert_close(prefill[3], 2.0 * weights[1, 0] @ inputs[3])
