"""What evaluation people care about: text properties apart from the named attributes and from the population's family.

No property here is one of those by definition; that some go along with them in real text cannot be helped, and
`overlap` says how far. Families of people: sparse (one to three properties), dense (all of them a little), and
contradictory (two properties that exclude one another in plain text). Knows nothing of models or servers.
"""

from __future__ import annotations

import numpy as np

from serve.jobs.learning.text import Property, Text, lexicon

ARTICLES = lexicon("the a an")
PREPOSITIONS = lexicon("of in to for with on at by from about into through over between under during after before")
BEING = lexicon("is are was were be been being am it's that's")


def _commas(text: Text) -> float:
    return text.rate(",;")


def _quotes(text: Text) -> float:
    return text.rate('"“”')


def _brackets(text: Text) -> float:
    return text.rate("()[]")


def _colons(text: Text) -> float:
    return text.rate(":")


def _dashes(text: Text) -> float:
    return text.rate("-–—")


def _paragraphs(text: Text) -> float:
    return float(np.log1p(text.raw.strip().count("\n\n")))


def _syllables(text: Text) -> float:
    """Share of words with three groups of vowels or more."""
    return sum(_vowel_groups(word) >= 3 for word in text.words) / text.num_words


def _vowel_groups(word: str) -> int:
    previous, count = False, 0
    for letter in word:
        is_vowel = letter in "aeiouy"
        count += is_vowel and not previous
        previous = is_vowel
    return count


def _repeats(text: Text) -> float:
    """Share of words said before in the last 20 words."""
    return sum(word in text.words[max(0, i - 20) : i] for i, word in enumerate(text.words)) / text.num_words


def _alike_starts(text: Text) -> float:
    """Share of sentences that begin with the word an earlier one began with."""
    starts = [part.split()[0].lower() for part in text.sentences]
    return 1.0 - len(set(starts)) / max(len(starts), 1)


TASTES: tuple[Property, ...] = (
    Property("commas", _commas),
    Property("quotes", _quotes),
    Property("brackets", _brackets),
    Property("colons", _colons),
    Property("dashes", _dashes),
    Property("paragraphs", _paragraphs),
    Property("syllables", _syllables),
    Property("repeats", _repeats),
    Property("alike_starts", _alike_starts),
    Property("articles", lambda text: text.share(ARTICLES)),
    Property("prepositions", lambda text: text.share(PREPOSITIONS)),
    Property("being", lambda text: text.share(BEING)),
)
