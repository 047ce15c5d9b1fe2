import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.engines.worker_messages import FloatArray
from serve.home import Home
from serve.jobs.few_shot import states
from serve.jobs.few_shot.states import PROMPT, chosen_layers, engine_states, standardised
from serve.models import DEFAULT_MODEL, resolve

TEXTS = ("Fewer taxes, please.", "The sea is calm.\nSo are we.", "Schools first!")


def test_features_of_a_layer_weigh_alike() -> None:
    drawn = np.random.default_rng(0).normal(size=(50, 2, 3)).astype(np.float32)
    features = standardised(np.concatenate([drawn * [1.0, 50.0, 0.0], drawn + 7.0], axis=1))
    assert features.shape == (50, 12)
    np.testing.assert_allclose(features.mean(axis=0), 0.0, atol=1e-6)
    expected = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    np.testing.assert_allclose(features.std(axis=0)[:6], expected, atol=1e-6)


def test_layers_are_shares_of_the_models_depth(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    for num_layers, expected in ((30, (14, 21)), (10, (5, 7)), (2, (1, 1))):
        LlamaConfig(num_hidden_layers=num_layers).save_pretrained(tmp_path)
        assert chosen_layers(str(tmp_path)) == expected


def test_states_are_read_once_for_each_set_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaConfig

    model = tmp_path / "model"
    LlamaConfig(num_hidden_layers=30).save_pretrained(model)
    (model / "model.safetensors").touch()
    asked: list[list[str]] = []

    async def read(_path: str, layers: Sequence[int], texts: Sequence[str]) -> FloatArray:
        asked.append(list(texts))
        return np.random.default_rng(len(texts)).normal(size=(len(texts), len(layers), 4)).astype(np.float32)

    monkeypatch.setattr(states, "_read", read)
    featurizer = engine_states(str(model), Home(tmp_path / "home"))
    first = featurizer(TEXTS)
    np.testing.assert_array_equal(featurizer(TEXTS), first)
    assert first.shape == (3, 8)
    assert len(asked) == 1
    featurizer((*TEXTS, "  "))
    assert asked[1] == [*TEXTS, "(nothing)"]


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_the_engine_reads_is_the_mean_over_the_texts_tokens() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve(DEFAULT_MODEL.name, Home.from_env())
    read = asyncio.run(states._read(path, (14, 21), TEXTS))
    assert read.shape == (3, 2, 576)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    head = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, tokenize=False
    )
    start = len(tokenizer(head, add_special_tokens=False)["input_ids"])
    for row, text in enumerate(TEXTS):
        ids = tokenizer(head, add_special_tokens=False)["input_ids"]
        ids = [*ids, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            hidden = model.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        for column, layer in enumerate((14, 21)):
            expected = hidden[layer + 1][0, start:].mean(dim=0).numpy()
            # The engine computes in bfloat16.
            error = np.linalg.norm(read[row, column] - expected) / np.linalg.norm(expected)
            assert error < 0.03, (text, layer, error)
