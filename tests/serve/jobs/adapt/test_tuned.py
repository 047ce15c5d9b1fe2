"""The model's side: how pairs become tokens, which layers may change, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from serve.artifacts.adapters import CONFIG, FILES
from serve.errors import ConfigurationError
from serve.jobs.adapt.pairs import Pair, Said
from serve.jobs.adapt.training import add_adapter, margins, train
from serve.jobs.adapt.tuned import layers_above, load_model, save_adapter, tokenized, weights_digest
from tests.serve.artifacts_for_tests import make_space
from tests.serve.jobs.adapt.cases import CONFIG as TRAINING
from tests.serve.jobs.adapt.cases import NUM_LAYERS, Forgetful, pairs, tiny_model

PAIR = Pair((("user", "ab"),), Said("cd"), Said("ef", is_whole=False), weight=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def test_pairs_become_what_the_server_would_generate(folder: Path) -> None:
    _, tokenizer = load_model(str(folder), "cpu")
    (found,) = tokenized(tokenizer, [PAIR], max_tokens=8, max_prompt_tokens=8)
    assert tokenizer.decode(found.prompt).replace(" ", "") == "ab."
    assert tokenizer.convert_ids_to_tokens(list(found.chosen)) == ["c", "d", "<end>"]
    assert tokenizer.convert_ids_to_tokens(list(found.rejected)) == ["e", "f"]  # was cut off: it has no end
    assert found.weight == 0.5


def test_long_answers_are_cut_and_have_no_end(folder: Path) -> None:
    _, tokenizer = load_model(str(folder), "cpu")
    (found,) = tokenized(tokenizer, [PAIR], max_tokens=1, max_prompt_tokens=8)
    assert tokenizer.convert_ids_to_tokens(list(found.chosen)) == ["c"]
    assert tokenized(tokenizer, [PAIR], max_tokens=8, max_prompt_tokens=2) == []
    same = replace(PAIR, rejected=Said("cx"))
    assert tokenized(tokenizer, [same], max_tokens=1, max_prompt_tokens=8) == []


def test_only_layers_above_those_read_may_change() -> None:
    space = make_space()  # reads and steers layer 1
    assert layers_above(space, NUM_LAYERS) == [2, 3]
    with pytest.raises(ConfigurationError, match="reads the model's last layer"):
        layers_above(space, 2)


def test_what_is_written_is_two_files_that_speak_of_no_machine(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model, _ = load_model(str(folder), "cpu")
    tuned = add_adapter(model, (2, 3), TRAINING)
    train(tuned, pairs(), replace(TRAINING, steps=2), Forgetful(), lambda _: None)
    save_adapter(tuned, tmp_path / "adapter", "tiny")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == set(FILES)
    assert str(folder.parent) not in (tmp_path / "adapter" / CONFIG).read_text()
    assert json.loads((tmp_path / "adapter" / CONFIG).read_text())["base_model_name_or_path"] == "tiny"
    again = PeftModel.from_pretrained(load_model(str(folder), "cpu")[0], str(tmp_path / "adapter"))
    assert margins(again, pairs(4), 1.0).tolist() == pytest.approx(margins(tuned, pairs(4), 1.0).tolist(), abs=1e-6)
    assert torch.isfinite(next(again.parameters())).all()


def test_weights_are_known_by_what_they_are(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    copied.mkdir()
    weights = (folder / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(weights)
    assert weights_digest(str(copied)) == weights_digest(str(folder))
    (copied / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert weights_digest(str(copied)) != weights_digest(str(folder))


def test_a_model_without_a_chat_template_is_refused(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    copied.mkdir()
    for path in folder.iterdir():
        if "chat_template" not in path.name:
            (copied / path.name).write_bytes(path.read_bytes())
    described = json.loads((copied / "tokenizer_config.json").read_text())
    described.pop("chat_template", None)
    (copied / "tokenizer_config.json").write_text(json.dumps(described))
    with pytest.raises(ConfigurationError, match="no chat template"):
        load_model(str(copied), "cpu")
