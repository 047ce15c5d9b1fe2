"""What evaluated people may care about: what the default artifact's population does, or things foreign to it.

`overlap` says how much of each property a linear reading of another family explains. Knows nothing of people, models or
servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from serve.jobs.learning.properties import PROPERTIES
from serve.jobs.learning.spaces import explained, probe
from serve.jobs.learning.text import Array, Property, Text, lexicon

ARTICLES = lexicon("the a an")
PREPOSITIONS = lexicon("of in to for with on at by from about into through over between under during after before")
BEING = lexicon("is are was were be been being am")
THIRD_PERSON = lexicon("he she they him her them his hers their it its one everyone people someone")


def _announcing(text: Text) -> float:
    """Lines or clauses that end with a colon."""
    return float(np.sqrt(text.raw.count(":") / text.num_sentences))


def _short_lines(text: Text) -> float:
    """Share of lines of fewer than seven words, as headings and fragments have them."""
    return sum(len(line.split()) < 7 for line in text.lines) / max(len(text.lines), 1)


FOREIGN: tuple[Property, ...] = (
    Property("announcing", _announcing),
    Property("being", lambda text: text.share(BEING)),
    Property("articles", lambda text: text.share(ARTICLES)),
    Property("prepositions", lambda text: text.share(PREPOSITIONS)),
    Property("third_person", lambda text: text.share(THIRD_PERSON)),
    Property("past_tense", lambda text: text.ending("ed")),
    Property("short_lines", _short_lines),
)
TasteFamily = Literal["known", "foreign"]
FAMILIES: dict[TasteFamily, tuple[Property, ...]] = {"known": PROPERTIES, "foreign": FOREIGN}


def overlap(values: Array, others: Array, ridge: float = 1.0) -> Array:
    """Return how much of each property (n, A) a linear reading of another family (n, B) explains, R² (A,)."""
    target, inputs = values - values.mean(axis=0), others - others.mean(axis=0)
    return explained(target, inputs @ probe(inputs, target, ridge).T)


def names_of(family: Sequence[Property]) -> tuple[str, ...]:
    """Return the names of a family."""
    return tuple(one.name for one in family)
