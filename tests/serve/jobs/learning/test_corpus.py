"""Corpora on disk, and how prompts are kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serve.errors import ConfigurationError
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
