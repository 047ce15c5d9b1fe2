"""Corpora on disk, and how prompts are kept apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from serve.errors import ConfigurationError
from serve.jobs.learning import generate as module
from serve.jobs.learning.corpus import add_part, begin, has_part, load_corpus
from serve.jobs.learning.prompts import Prompt, Role, load_prompts, of_role
from tests.serve.jobs.learning.cases import make_corpus


def test_parts_come_back_in_order(tmp_path: Path) -> None:
    corpus = make_corpus(num_prompts=8, samples=2)
    begin(tmp_path, corpus.recipe)
    add_part(tmp_path, "part-00001", corpus.samples[6:], corpus.states[6:])
    add_part(tmp_path, "part-00000", corpus.samples[:6], corpus.states[:6])
    found = load_corpus(tmp_path)
    assert found.samples == corpus.samples
    np.testing.assert_array_equal(found.states, corpus.states)
    assert found.layers == corpus.layers
    np.testing.assert_array_equal(found.prompt_numbers(), np.repeat(np.arange(8), 2))


def test_texts_keep_their_line_separators(tmp_path: Path) -> None:
    corpus = make_corpus(num_prompts=2, samples=2)
    odd = [replace(one, text="one\u2028two\u0085three\r\nfour") for one in corpus.samples]
    begin(tmp_path, corpus.recipe)
    add_part(tmp_path, "part-00000", odd, corpus.states)
    assert load_corpus(tmp_path).samples == tuple(odd)


def test_prompts_keep_their_line_separators(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "a", "prompt": "one\u2028two"}\n\n{"prompt": "three"}\n')
    assert load_prompts(path) == [Prompt("a", "one\u2028two"), Prompt("3", "three")]


def test_a_corpus_is_of_its_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    async def without_an_engine(*arguments: Any) -> None:
        runs.append(len(arguments[3]))

    monkeypatch.setattr(module, "_generate", without_an_engine)
    monkeypatch.setattr(module, "resolve", lambda model, home: model)
    for name, prompt in (("first", "Tea?"), ("second", "Coffee?")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": "1", "prompt": prompt}) + "\n")

    def generate(name: str) -> None:
        options = ["--prompts", str(tmp_path / f"{name}.jsonl"), "--out", str(tmp_path / "corpus")]
        CliRunner().invoke(module.generate, options, catch_exceptions=False)

    generate("first")
    generate("first")
    assert runs == [1, 1]
    with pytest.raises(ConfigurationError, match="a corpus made otherwise"):
        generate("second")


def test_a_part_without_its_texts_does_not_count(tmp_path: Path) -> None:
    corpus = make_corpus(num_prompts=8, samples=2)
    begin(tmp_path, corpus.recipe)
    add_part(tmp_path, "part-00000", corpus.samples, corpus.states)
    (tmp_path / "part-00001.safetensors").write_bytes(b"half")
    assert has_part(tmp_path, "part-00000")
    assert not has_part(tmp_path, "part-00001")
    assert len(load_corpus(tmp_path).samples) == len(corpus.samples)


def test_two_recipes_do_not_mix(tmp_path: Path) -> None:
    begin(tmp_path, {"model": "a"})
    begin(tmp_path, {"model": "a"})
    with pytest.raises(ConfigurationError, match="made otherwise"):
        begin(tmp_path, {"model": "b"})
    with pytest.raises(ConfigurationError, match="holds no corpus"):
        load_corpus(tmp_path)


def test_prompts_have_one_role_each() -> None:
    prompts = load_prompts()
    assert len(prompts) == 249
    assert [len(of_role(prompts, role)) for role in Role] == [140, 49, 60]
    assert Prompt("another id", prompts[0].text).role is prompts[0].role


@pytest.mark.parametrize("text", ["", "{", '{"id": "a"}', '{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}'])
def test_unreadable_prompts_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigurationError):
        load_prompts(path)
