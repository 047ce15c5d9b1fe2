"""One batch of the base, two adapters and a steered arm: each gives what it gives alone; adapters what PEFT gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from serve.config import EngineConfig, ModelConfig
from serve.engines.feature_space import FeatureSpace
from serve.engines.protocol import BestOf, ChatInput, Delta, EngineArm, GenerationRequest, Sampling
from serve.engines.vllm_engine import VllmEngine
from serve.engines.worker_messages import Projection

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.asyncio]
MESSAGES = [{"role": "user", "content": "Name three colours."}]
NUM_TOKENS = 12


def _make_adapter(model_path: str, folder: Path, seed: int) -> str:
    """Write a random adapter large enough to change what is said."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    tuned.save_pretrained(str(folder))
    return str(folder)


def _reference(model_path: str, adapter: str | None, token_ids: list[int]) -> list[float]:
    """Let transformers say how probable each token is."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *token_ids]])).logits[0]
    logprobs = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return [float(row[token]) for row, token in zip(logprobs, token_ids, strict=True)]


def _request(request_id: str, *arms: EngineArm) -> GenerationRequest:
    sampling = Sampling(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True, num_logprobs=0)
    return GenerationRequest(request_id, sampling, chat=ChatInput(MESSAGES), arms=arms, best_of=BestOf())


async def _deltas(engine: VllmEngine, request: GenerationRequest) -> list[Delta]:
    """Return each arm's whole answer."""
    async with engine.candidates(request) as run:
        deltas = [delta async for output in run.outputs() for delta in output.deltas]
    return sorted(deltas, key=lambda delta: delta.index)


async def test_adapters_steering_and_the_base_share_a_batch(
    default_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A forked engine would inherit the threads that made the adapters, and wait for them.
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    first, second = (_make_adapter(default_model, tmp_path / f"a{seed}", seed) for seed in (1, 2))
    rng = np.random.default_rng(0)
    projection = Projection(
        rng.normal(size=(4, 576)).astype(np.float32), np.zeros(576, np.float32), np.ones(576, np.float32)
    )
    space = FeatureSpace("m", (14,), 14, projection, rng.normal(size=(576, 4)).astype(np.float32), max_dose=0.4)
    model = ModelConfig(max_model_len=256, dtype="float32")
    engine = VllmEngine(model, EngineConfig(cpu_kv_cache_gib=1, max_num_seqs=8, max_loras=2), default_model, space)
    await engine.start()
    try:
        steered = EngineArm(coeffs=(1.0, 0.0, 0.0, 0.0), dose=0.4)
        arms = (EngineArm(), EngineArm(adapter=first), EngineArm(adapter=second), steered)
        together = await _deltas(engine, _request("together", *arms))
        alone = [(await _deltas(engine, _request(f"alone-{i}", arm)))[0] for i, arm in enumerate(arms)]
    finally:
        await engine.shutdown()
    assert [delta.text for delta in together] == [delta.text for delta in alone]
    assert len({delta.text for delta in together}) == 4
    for delta, adapter in zip(together, (None, first, second), strict=False):
        assert delta.token_ids
        said = [entry.logprob for entry in delta.logprobs or ()]
        assert said == pytest.approx(_reference(default_model, adapter, delta.token_ids), abs=5e-3)
