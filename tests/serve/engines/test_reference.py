"""Steered tokens, their log-probabilities and the pooled states against a plain transformers forward, in float32.

The same tokens with the same vectors added. Tolerances are those of two float32 implementations: 1e-3 of the states'
norm, 2e-3 nats.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serve.engines.steering_request import SteeringRequest
from serve.engines.worker_messages import WorkerConfig
from tests.serve.engines.conftest import EngineStarter, SteppedEngine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

D, MAX_DOSE, NUM_TOKENS = 3, 0.2, 40
STEERINGS = {
    "dosed": SteeringRequest((1.0, -0.5, 0.2), 0.15, pool=True),
    "capped": SteeringRequest((50.0, 0.0, 90.0), pool=True),
    "short": SteeringRequest((0.05, 0.0, -0.05), pool=True),
    "pooled": SteeringRequest(pool=True),
}
PROMPTS = {
    "dosed": "Tell me something about the sea. " * 12,  # longer than one chunk of prefill
    "capped": "The capital of France is",
    "short": "Once upon a time there was a little robot who",
    "pooled": "A list of three fruits:",
}


@dataclass(frozen=True)
class Subject:
    """A model with the layers to look at."""

    path: str
    steered_layer: int
    pooled_layers: tuple[int, ...]


def tiny_gpt2(folder: Path, default_model: str) -> Subject:
    """Write a random GPT-2: its layers put out the stream in one piece, Llama's in two."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    config = GPT2Config(
        vocab_size=49152, n_positions=512, n_embd=128, n_layer=6, n_head=2, initializer_range=0.15, eos_token_id=2,
        bos_token_id=1,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (Path(default_model) / name).exists():
            shutil.copy(Path(default_model) / name, folder / name)
    return Subject(str(folder), steered_layer=2, pooled_layers=(4, 1, 2))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def subject(request: pytest.FixtureRequest, default_model: str, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    if request.param == "llama":
        return Subject(default_model, steered_layer=14, pooled_layers=(14, 21))
    return tiny_gpt2(tmp_path_factory.mktemp("gpt2"), default_model)


@pytest.fixture(scope="module")
def config(subject: Subject) -> WorkerConfig:
    from transformers import AutoConfig

    hidden_size = AutoConfig.from_pretrained(subject.path).hidden_size
    directions = np.random.default_rng(3).standard_normal((hidden_size, D)).astype(np.float32)
    return WorkerConfig(subject.pooled_layers, subject.steered_layer, directions, MAX_DOSE)


@pytest.fixture(scope="module")
def engine(subject: Subject, config: WorkerConfig, start_engine: EngineStarter) -> SteppedEngine:
    engine = start_engine(subject.path, list(config.layers), dtype="float32", block_size=32, max_num_batched_tokens=64)
    engine.configure(config)
    return engine


@pytest.fixture(scope="module")
def reference(subject: Subject) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(subject.path, dtype=torch.float32)


def layers_of(model: Any) -> Any:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def added_vector(stream: torch.Tensor, steering: SteeringRequest, directions: np.ndarray[Any, Any]) -> torch.Tensor:
    """Give what each token of (T, H) gets: direction by coefficients, length by dose or cap."""
    if not steering.coeffs:
        return torch.zeros_like(stream)
    vector = torch.from_numpy(directions @ np.asarray(steering.coeffs, dtype=np.float32))
    norms = stream.norm(dim=-1)  # (T,)
    cap, share = (float(vector.norm()), MAX_DOSE) if steering.dose is None else (math.inf, steering.dose)
    return torch.outer(torch.clamp(share * norms, max=cap), vector / vector.norm())


@torch.no_grad()
def forward(
    model: Any, tokens: list[int], num_prompt_tokens: int, steering: SteeringRequest, config: WorkerConfig
) -> tuple[torch.Tensor, np.ndarray[Any, Any]]:
    """Return log-probabilities (T, V) and the mean states (L, H) of the generated tokens but the last."""
    generated = slice(num_prompt_tokens, len(tokens) - 1)
    states: dict[int, torch.Tensor] = {}

    def at_layer(index: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            stream = (output[0] if isinstance(output, tuple) else output)[0]  # (T, H)
            states[index] = stream[generated].mean(dim=0)
            if index == config.steered_layer:
                stream[generated] += added_vector(stream[generated], steering, config.directions)

        return hook

    handles = [layers_of(model)[index].register_forward_hook(at_layer(index)) for index in config.layers]
    logits = model(torch.tensor([tokens])).logits[0]
    for handle in handles:
        handle.remove()
    return logits.log_softmax(dim=-1), torch.stack([states[index] for index in config.pooled_layers]).numpy()


def check_against_reference(engine: SteppedEngine, reference: Any, config: WorkerConfig, names: dict[str, str]) -> None:
    """Compare finished requests, `names` of request by kind of steering."""
    found = engine.read(*names.values())
    for kind, name in names.items():
        output = engine.texts[name]
        answer = list(output.outputs[0].token_ids)
        prompt = list(output.prompt_token_ids)
        expected, states = forward(reference, prompt + answer, len(prompt), STEERINGS[kind], config)
        expected = expected[len(prompt) - 1 : -1]  # (T, V), before each generated token
        assert expected.argmax(dim=-1).tolist() == answer, kind
        said = [at[token].logprob for at, token in zip(output.outputs[0].logprobs, answer, strict=True)]
        np.testing.assert_allclose(said, expected.gather(1, torch.tensor(answer)[:, None])[:, 0], atol=2e-3)
        assert found.counts[name] == NUM_TOKENS - 1
        error = np.linalg.norm(found.values[name] - states, axis=-1) / np.linalg.norm(states, axis=-1)
        assert error.max() < 1e-3, (kind, error)


def test_a_batch_equals_the_plain_forward(engine: SteppedEngine, reference: Any, config: WorkerConfig) -> None:
    for name, steering in STEERINGS.items():
        engine.add(name, PROMPTS[name], steering, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=1)
    engine.drain()
    check_against_reference(engine, reference, config, {name: name for name in STEERINGS})
    engine.llm.collective_rpc("free_states", args=(list(STEERINGS),))
    # The check would notice: without the vector the reference says something else.
    tokens = [*engine.texts["dosed"].prompt_token_ids, *engine.texts["dosed"].outputs[0].token_ids]
    unsteered, _ = forward(reference, tokens, len(tokens) - NUM_TOKENS, STEERINGS["pooled"], config)
    assert unsteered[-NUM_TOKENS - 1 : -1].argmax(dim=-1).tolist() != tokens[-NUM_TOKENS:]


def test_preemption_steers_again_and_counts_once(engine: SteppedEngine, reference: Any, config: WorkerConfig) -> None:
    for name, steering in STEERINGS.items():
        engine.add(f"p-{name}", PROMPTS[name], steering, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=1)
    for _ in range(2):
        engine.step(15)
        running = list(engine.scheduler.running)
        assert len(running) == len(STEERINGS)
        assert engine.llm.reset_prefix_cache(reset_running_requests=True)  # preempts them all
        assert all(request.num_computed_tokens == 0 for request in running)
    engine.drain()
    check_against_reference(engine, reference, config, {name: f"p-{name}" for name in STEERINGS})
    engine.llm.collective_rpc("free_states", args=([f"p-{name}" for name in STEERINGS],))
    assert engine.stats() == {"num_live": 0, "num_rows_used": 0, "num_finished": 0, "num_rejected": 0}
