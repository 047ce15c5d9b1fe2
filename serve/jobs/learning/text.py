"""Countable things in a text: words, sentences, lines; and measured properties made of such counts.

A property is a number a program can read off a text, so that simulated people can have hidden tastes and directions can
be tested for what they do. English only. Knows nothing of models, people or features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CLIP = 3.0  # standard deviations at which a measured property saturates: no single text may decide a taste

_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?:\s+|$)|\n+")
_LIST_LINE = re.compile(r"^\s*(?:[-*•+]|\d+[.)])\s+", re.MULTILINE)


@dataclass(frozen=True)
class Text:
    """One text, taken apart once."""

    raw: str

    @cached_property
    def words(self) -> list[str]:
        """Words in lower case."""
        return [word.lower().replace("’", "'") for word in _WORD.findall(self.raw)]

    @cached_property
    def sentences(self) -> list[str]:
        """Sentences and lines, stripped, without empty ones."""
        return [part.strip() for part in _SENTENCE_END.split(self.raw) if part.strip()]

    @cached_property
    def lines(self) -> list[str]:
        """Lines with something on them."""
        return [line for line in self.raw.splitlines() if line.strip()]

    @cached_property
    def num_list_lines(self) -> int:
        """Lines that begin with a bullet or a number."""
        return len(_LIST_LINE.findall(self.raw))

    @property
    def num_words(self) -> int:
        """Number of words, at least 1, to divide by."""
        return max(len(self.words), 1)

    @property
    def num_sentences(self) -> int:
        """Number of sentences, at least 1, to divide by."""
        return max(len(self.sentences), 1)

    def share(self, lexicon: frozenset[str]) -> float:
        """Share of words in a lexicon, as its square root: rates of rare words are spread more evenly so."""
        return float(np.sqrt(sum(word in lexicon for word in self.words) / self.num_words))

    def ending(self, *suffixes: str, min_length: int = 5) -> float:
        """Share of longer words with one of these endings, as its square root."""
        return float(np.sqrt(sum(len(w) >= min_length and w.endswith(suffixes) for w in self.words) / self.num_words))

    def rate(self, characters: str) -> float:
        """How often characters occur per word, as its square root."""
        return float(np.sqrt(sum(self.raw.count(c) for c in characters) / self.num_words))


@dataclass(frozen=True, slots=True)
class Property:
    """Something measured of a text."""

    name: str
    measure: Callable[[Text], float]


def measure(texts: Sequence[str], family: Sequence[Property]) -> Array:
    """Measure every text, (n, A)."""
    parsed = [Text(text) for text in texts]
    return np.array([[one.measure(text) for one in family] for text in parsed], dtype=np.float64).reshape(
        len(texts), len(family)
    )


@dataclass(frozen=True, eq=False, slots=True)
class Standard:
    """What is usual: mean and deviation of each property over plain texts."""

    center: Array  # (A,)
    scale: Array  # (A,)

    @classmethod
    def of(cls, values: Array) -> Standard:
        """Take the standard from plain texts (n, A); what never varies gets scale 1."""
        deviations = values.std(axis=0)
        return cls(values.mean(axis=0), np.where(deviations > 1e-9, deviations, 1.0))

    def __call__(self, values: Array) -> Array:
        """Express values (..., A) in deviations from the usual, saturating at ±3."""
        return np.clip((values - self.center) / self.scale, -CLIP, CLIP)


def lexicon(words: str) -> frozenset[str]:
    """Make a lexicon of words separated by spaces."""
    return frozenset(words.split())


def mean_length(parts: Sequence[str]) -> float:
    """Mean number of characters."""
    return float(np.mean([len(part) for part in parts])) if parts else 0.0
