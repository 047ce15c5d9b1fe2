"""A tiny random Llama, and pairs over its tokens that can be told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from serve.jobs.adapt.training import Progress, Tokens, TrainingConfig

NUM_LAYERS, VOCABULARY = 4, 48
ADAPTED = (2, 3)
CONFIG = TrainingConfig(rank=4, alpha=8.0, steps=12, batch_size=4, beta=0.5, flip_rate=0.1, learning_rate=1e-2)


def tiny_llama(seed: int = 0) -> Any:
    """Make a model of four layers, float32, the same for the same seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config)


def tiny_model(folder: Path) -> Path:
    """Write the tiny model with a tokenizer of single letters and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: number for number, letter in enumerate(["<end>", *"abcdefghijklmnopqrstuvwxyz .,!?"])}
    tokenizer = Tokenizer(models.WordLevel({**letters, "<unknown>": len(letters)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unknown>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}.{% endfor %}"
    tiny_llama().save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def pairs(num: int = 16, seed: int = 1) -> list[Tokens]:
    """Prefer answers of even tokens to answers of odd ones."""
    rng = np.random.default_rng(seed)

    def answer(rest: int) -> tuple[int, ...]:
        return tuple(int(2 * token + rest) for token in rng.integers(1, VOCABULARY // 2, size=rng.integers(2, 6)))

    return [Tokens((1, 2, int(rng.integers(3, 40))), answer(0), answer(1)) for _ in range(num)]


class Forgetful:
    """Keeps nothing."""

    def recall(self, parameters: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> Progress:
        return Progress()

    def keep(self, parameters: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        pass
