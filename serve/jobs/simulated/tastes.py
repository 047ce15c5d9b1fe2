"""What evaluation people care about: text properties that are none of the named attributes.

None is measured as the population's family measures its own either, but the two are about the same kinds of things, as
two groups of real people would be; `overlap` says how much of each a linear reading of another family explains. Knows
nothing of people, models or servers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from serve.jobs.learning.spaces import explained, probe
from serve.jobs.learning.text import Array, Property, Text, lexicon

YOU = lexicon("you your yours yourself yourselves")
WE_AND_I = lexicon("i me my mine myself we us our ours ourselves")
ARTICLES = lexicon("the a an")
PREPOSITIONS = lexicon("of in to for with on at by from about into through over between under during after before")
BEING = lexicon("is are was were be been being am")
SHORT_FORMS = ("'re", "'ve", "'ll", "'d", "'m", "n't", "it's", "that's", "there's", "what's", "let's")
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def _names(text: Text) -> float:
    """Capitalised words inside a sentence."""
    return float(np.sqrt(len(_NAME.findall(text.raw)) / text.num_words))


def _numbers(text: Text) -> float:
    return float(np.sqrt(len(_NUMBER.findall(text.raw)) / text.num_words))


def _short_forms(text: Text) -> float:
    return float(np.sqrt(sum(word.endswith(SHORT_FORMS) for word in text.words) / text.num_words))


def _breath(text: Text) -> float:
    """Words of the middle sentence: one long one does not count."""
    return float(np.log1p(np.median([len(part.split()) for part in text.sentences]))) if text.sentences else 0.0


def _exclaiming(text: Text) -> float:
    """Share of sentences that end with an exclamation mark."""
    return min(text.raw.count("!") / text.num_sentences, 1.0)


def _quoting(text: Text) -> float:
    return text.rate('"“”')


def _asides(text: Text) -> float:
    return text.rate("()[]–—")


def _announcing(text: Text) -> float:
    """Lines or clauses that end with a colon."""
    return float(np.sqrt(text.raw.count(":") / text.num_sentences))


TASTES: tuple[Property, ...] = (
    Property("you", lambda text: text.share(YOU)),
    Property("we_and_i", lambda text: text.share(WE_AND_I)),
    Property("short_forms", _short_forms),
    Property("names", _names),
    Property("numbers", _numbers),
    Property("breath", _breath),
    Property("exclaiming", _exclaiming),
    Property("quoting", _quoting),
    Property("announcing", _announcing),
    Property("asides", _asides),
    Property("being", lambda text: text.share(BEING)),
    Property("articles", lambda text: text.share(ARTICLES)),
    Property("prepositions", lambda text: text.share(PREPOSITIONS)),
    Property("commas", lambda text: text.rate(",")),
)


def overlap(values: Array, others: Array, ridge: float = 1.0) -> Array:
    """Return how much of each property (n, A) a linear reading of another family (n, B) explains, R² (A,)."""
    target, inputs = values - values.mean(axis=0), others - others.mean(axis=0)
    return explained(target, inputs @ probe(inputs, target, ridge).T)


def names_of(family: Sequence[Property]) -> tuple[str, ...]:
    """Return the names of a family."""
    return tuple(one.name for one in family)
