"""Texts as the engine itself sees them: hidden states of a model, averaged over a text's tokens.

Every text is read as an answer to one neutral prompt by the same engine, taps and chat template that the server runs
with. States are kept in the cache by what they were read from. Knows nothing of people or of who judged what.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from router.types import Array
from serve.engines.worker_messages import FloatArray
from serve.home import Home
from serve.jobs.few_shot.features import Featurizer
from serve.jobs.learning.generator import running
from serve.models import resolve

PROMPT = "Say something."
DEPTHS = (14 / 30, 21 / 30)  # of the layers read, as shares of the model's
TEXTS_A_CALL = 64
NOTHING = "(nothing)"  # read where a text is empty


def engine_states(model: str, home: Home) -> Featurizer:
    """Return the featurizer that reads a model's states; minutes on a CPU, once for each set of texts.

    States are standardised over the texts, so that the few dimensions that are large everywhere do not outweigh the
    others. Raises ModelUnavailable when called.
    """

    def read(given: Sequence[str]) -> Array:
        path, texts = resolve(model, home), [text.strip() or NOTHING for text in given]
        layers = chosen_layers(path)
        kept = home.create().cache / "few_shot" / f"{_digest(path, layers, texts)}.npy"
        if kept.exists():
            states = np.load(kept, allow_pickle=False)
        else:
            states = asyncio.run(_read(path, layers, texts))
            kept.parent.mkdir(parents=True, exist_ok=True)
            aside = kept.with_suffix(".part.npy")
            np.save(aside, states)
            aside.rename(kept)
        return standardised(states)

    return read


def chosen_layers(path: str) -> tuple[int, ...]:
    """Return which layers of a model, a folder or hub id, are read."""
    from transformers import AutoConfig  # noqa: PLC0415 - seconds

    num_layers = AutoConfig.from_pretrained(path).get_text_config().num_hidden_layers
    return tuple(round(depth * num_layers) for depth in DEPTHS)


def standardised(states: FloatArray) -> Array:
    """Return states (n, L, H) as features (n, L·H) of mean 0 and variance 1."""
    flat = states.reshape(len(states), -1).astype(np.float64)
    return np.asarray((flat - flat.mean(axis=0)) / np.maximum(flat.std(axis=0), 1e-6))


async def _read(path: str, layers: Sequence[int], texts: Sequence[str]) -> FloatArray:
    parts = []
    async with running(path, layers) as generator:
        await generator.read_layers(layers)
        with tqdm(total=len(texts), unit=" texts", desc="read", file=sys.stderr) as bar:
            for start in range(0, len(texts), TEXTS_A_CALL):
                part = texts[start : start + TEXTS_A_CALL]
                parts.append(await generator.read(PROMPT, part))
                bar.update(len(part))
    return np.concatenate(parts)


def _digest(path: str, layers: Sequence[int], texts: Sequence[str]) -> str:
    folder = Path(path)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    model = [path, *[[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]]
    return hashlib.sha256(json.dumps([model, list(layers), PROMPT, list(texts)]).encode()).hexdigest()[:32]
