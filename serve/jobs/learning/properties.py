"""What simulated people care about beyond the named attributes: text properties that a reader notices.

The population behind the default artifact cares about these and, half as much, about the named attributes; evaluated
people are others, drawn from these alone (`serve.jobs.simulated.people`). Knows nothing of people, models or servers.
"""

from __future__ import annotations

import re

import numpy as np

from serve.jobs.learning.text import Property, Text, lexicon

YOU = lexicon("you your yours yourself yourselves")
WE_AND_I = lexicon("i me my mine myself we us our ours ourselves")
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


PROPERTIES: tuple[Property, ...] = (
    Property("you", lambda text: text.share(YOU)),
    Property("we_and_i", lambda text: text.share(WE_AND_I)),
    Property("short_forms", _short_forms),
    Property("names", _names),
    Property("numbers", _numbers),
    Property("breath", _breath),
    Property("exclaiming", _exclaiming),
    Property("quoting", lambda text: text.rate('"“”')),
    Property("asides", lambda text: text.rate("()[]–—")),
    Property("commas", lambda text: text.rate(",")),
)
