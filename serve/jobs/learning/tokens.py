"""What each common token says of an answer's features, from a corpus: by this, steering tilts logits.

E[φ | token] among answers to one prompt: the mean of the features, less their mean over the prompt's answers, of the
answers that hold the token, drawn to 0 where few do. Knows no engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy.sparse import csr_array

from serve.engines.worker_messages import TokenFeatures
from serve.home import Home
from serve.jobs.learning.spaces import Index, within_prompts
from serve.jobs.learning.text import Array
from serve.models import resolve

MAX_COUNT = 3  # occurrences in one answer that count: an answer that runs in circles is one answer
MIN_COUNT = 20  # of a token in the corpus
RIDGE = 50.0  # occurrences of nothing, in every mean
REPLACEMENT = "\ufffd"


class Vocabulary(Protocol):
    """A tokenizer, as far as it is needed."""

    def encode(self, text: str, *, is_finished: bool) -> Sequence[int]:
        """Return an answer's tokens, with the one that ends it if it ended by itself."""

    def decode(self, token: int) -> str:
        """Return a token's text."""


class ModelVocabulary:
    """A model's own tokenizer."""

    def __init__(self, model: str) -> None:
        """Load it. Raises ConfigurationError if there is no such model."""
        from transformers import AutoTokenizer  # noqa: PLC0415 - seconds

        self._tokenizer = AutoTokenizer.from_pretrained(resolve(model, Home.from_env()))

    def encode(self, text: str, *, is_finished: bool) -> list[int]:
        """Return an answer's tokens, with the one that ends it if it ended by itself."""
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        end = self._tokenizer.eos_token_id
        return [*tokens, end] if is_finished and end is not None else tokens

    def decode(self, token: int) -> str:
        """Return a token's text."""
        text: str = self._tokenizer.decode([token])
        return text


def token_features(
    answers: Sequence[Sequence[int]], features: Array, prompts: Index, vocabulary: Vocabulary
) -> TokenFeatures:
    """Measure the tokens of answers (n) with features (n, P) to prompts (n,).

    Bytes that are no text by themselves are left out, for what they become is not theirs to say; and digits, for
    numbers are what an answer says, not how: short answers are often numbers, but a number is no shorter answer.
    """
    counts = _counts(answers)  # (n, V)
    seen = np.asarray(counts.sum(axis=0))  # (V,)
    common = np.flatnonzero(seen >= MIN_COUNT)
    tokens = np.array([token for token in common if _is_manner(vocabulary.decode(int(token)))], np.int64)
    shares = seen[tokens] / seen.sum()
    means = (counts[:, tokens].T @ within_prompts(features, prompts)) / (seen[tokens, None] + RIDGE)  # (T, P)
    means -= shares @ means / max(shares.sum(), 1e-12)
    return TokenFeatures(tokens, shares.astype(np.float32), means.astype(np.float32))


def _is_manner(text: str) -> bool:
    return REPLACEMENT not in text and not any(character.isdigit() for character in text)


def _counts(answers: Sequence[Sequence[int]]) -> csr_array:
    """Count each answer's tokens, (n, V), up to MAX_COUNT."""
    rows = np.repeat(np.arange(len(answers)), [len(answer) for answer in answers])
    columns = np.concatenate([np.asarray(answer, np.int64) for answer in answers])
    counts = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(answers), int(columns.max()) + 1))
    counts.sum_duplicates()
    counts.data = np.minimum(counts.data, MAX_COUNT)
    return counts
