"""A corpus of generations on disk: answers to prompts with their pooled states, in parts that a killed job keeps.

A part is two files: arrays (safetensors), then texts (JSON lines); the second one's presence says the part is whole.
`corpus.json` says how it was made, so that a resumed job cannot mix two ways. Knows nothing of engines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from serve.engines.worker_messages import FloatArray
from serve.errors import ConfigurationError

RECIPE = "corpus.json"


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer."""

    prompt_id: str
    prompt: str
    text: str
    seed: int
    temperature: float
    num_tokens: int
    mean_logprob: float
    is_finished: bool


@dataclass(frozen=True, eq=False, slots=True)
class Corpus:
    """All answers and their states."""

    recipe: dict[str, Any]  # model, layers and whatever else decided the answers
    samples: tuple[Sample, ...]  # (n,)
    states: FloatArray  # (n, L, H)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of `states`, in order."""
        return tuple(self.recipe["layers"])

    def prompt_numbers(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Number each sample's prompt by first appearance, (n,)."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(sample.prompt_id, len(numbers)) for sample in self.samples])


def begin(folder: Path, recipe: dict[str, Any]) -> None:
    """Make the folder for a recipe, or accept the one that an earlier run of it left.

    Raises:
        ConfigurationError: the folder holds a corpus made otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RECIPE
    if path.exists() and json.loads(path.read_text()) != recipe:
        raise ConfigurationError(f"{folder} holds a corpus made otherwise; give another folder or delete it.")
    path.write_text(json.dumps(recipe, indent=1) + "\n")


def has_part(folder: Path, name: str) -> bool:
    """Whether a part is there, whole."""
    return (folder / f"{name}.jsonl").exists()


def add_part(folder: Path, name: str, samples: Sequence[Sample], states: FloatArray) -> None:
    """Write one part; states (n, L, H)."""
    save_file({"states": np.ascontiguousarray(states, np.float32)}, folder / f"{name}.safetensors")
    text = "".join(json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples)
    aside = folder / f".{name}.jsonl"
    aside.write_text(text)
    aside.rename(folder / f"{name}.jsonl")


def join(corpora: Sequence[Corpus]) -> Corpus:
    """Put corpora of one model end to end, with the layers that all of them have.

    Raises:
        ConfigurationError: they are of different models, or share no layer.
    """
    if len(corpora) == 1:
        return corpora[0]
    models = {corpus.recipe["model"] for corpus in corpora}
    layers = sorted(set.intersection(*(set(corpus.layers) for corpus in corpora)))
    if len(models) != 1 or not layers:
        raise ConfigurationError(f"These corpora do not fit together: models {sorted(models)}, shared layers {layers}.")
    states = [corpus.states[:, [corpus.layers.index(layer) for layer in layers]] for corpus in corpora]
    recipe = {"model": models.pop(), "layers": layers, "parts": [corpus.recipe for corpus in corpora]}
    return Corpus(recipe, tuple(sample for corpus in corpora for sample in corpus.samples), np.concatenate(states))


def load_corpus(folder: Path) -> Corpus:
    """Read every whole part, in the order of their names.

    Raises:
        ConfigurationError: there is nothing to read.
    """
    names = sorted(path.stem for path in folder.glob("*.jsonl"))
    if not names:
        raise ConfigurationError(f"{folder} holds no corpus; make one with `palate features generate`.")
    samples: list[Sample] = []
    for name in names:
        lines = (folder / f"{name}.jsonl").read_text().split("\n")  # texts may hold other line separators
        samples += [Sample(**json.loads(line)) for line in lines if line]
    states = np.concatenate([load_file(folder / f"{name}.safetensors")["states"] for name in names])
    return Corpus(json.loads((folder / RECIPE).read_text()), tuple(samples), states)
