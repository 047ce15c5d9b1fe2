"""What is mended of vLLM's adapters on CPUs."""

from __future__ import annotations

import pytest
import torch

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def test_tokens_without_an_adapter_are_spared() -> None:
    from vllm.lora.ops.torch_ops import lora_ops

    from serve.engines.cpu_adapters import mend_adapters

    mend_adapters()
    mend_adapters()  # safe twice
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


def test_states_of_a_prompt_pass_by_the_adapters_of_the_head() -> None:
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from serve.engines.cpu_adapters import mend_adapters

    mend_adapters()
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(1, 1, 2, 6, generator=generator), torch.randn(1, 1, 9, 2, generator=generator)
    wrapper = PunicaWrapperCPU(8, 4, "cpu")
    wrapper._sampler_indices[:2] = torch.tensor([0, -1])
    wrapper.indices_len[1] = 2
    states = torch.randn(5, 6, generator=generator)
    of_prompt = torch.ones(5, 9)
    wrapper.add_lora_logits(of_prompt, states, down, up, 1.0)
    assert torch.equal(of_prompt, torch.ones(5, 9))
    of_next = torch.ones(2, 9)
    wrapper.add_lora_logits(of_next, states[:2], down, up, 1.0)
    torch.testing.assert_close(of_next, torch.stack([1.0 + up[0, 0] @ down[0, 0] @ states[0], torch.ones(9)]))
