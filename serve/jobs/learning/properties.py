"""The broad family of text properties that simulated people of the population care about.

They stand in for everyone's feedback until there is some: a basis that reads these reads much of what people can differ
about. What evaluation people care about is another family, `serve.jobs.simulated.tastes`.
"""

from __future__ import annotations

import numpy as np

from serve.jobs.learning.attributes import CAUTIOUS, WARM
from serve.jobs.learning.text import Property, Text, lexicon, mean_length

CONNECTIVES = lexicon(
    "because since although though while however but so therefore then also besides instead otherwise unless "
    "until thus whereas moreover furthermore finally first second third next"
)
POSITIVE = lexicon(
    "good great best better excellent positive success successful improve improved beautiful easy happy "
    "effective valuable benefit benefits helpful strong amazing perfect rich safe win interesting unique "
    "important bright fresh nice"
)
POINTERS = lexicon("the a an this that these those its their his her our your my")
GRAMMAR = lexicon("of in to for with on at by from as and or but if that which who it is are was be not")
AUXILIARIES = lexicon("is are was were be been being am has have had do does did will would can could")
SECOND_PERSON = lexicon("you your yours yourself you're you've you'll you'd")
FIRST_SINGULAR = lexicon("i me my mine myself i'm i've i'd i'll")


def _first_sentence(text: Text) -> float:
    return float(np.log1p(len(text.sentences[0]))) if text.sentences else 0.0


def _variety(text: Text) -> float:
    """Distinct words over the square root of words (Guiraud): nearly free of length."""
    return len(set(text.words)) / float(np.sqrt(text.num_words))


def _sentence_words(text: Text) -> float:
    return float(np.log(text.num_words / text.num_sentences))


def _spread(text: Text) -> float:
    return float(np.std([len(part) for part in text.sentences])) if len(text.sentences) > 1 else 0.0


def _contractions(text: Text) -> float:
    endings = ("'s", "'re", "'ve", "'ll", "'d", "'m", "n't")
    return float(np.sqrt(sum(word.endswith(endings) for word in text.words) / text.num_words))


def _symbols(text: Text) -> float:
    """Characters that are neither letters nor digits nor blank, per word."""
    return float(np.sqrt(sum(not (c.isalnum() or c.isspace()) for c in text.raw) / text.num_words))


def _short_lines(text: Text) -> float:
    """Share of lines of fewer than seven words, as headings and fragments have them."""
    return sum(len(line.split()) < 7 for line in text.lines) / max(len(text.lines), 1)


def _distinct(text: Text) -> float:
    return len(set(text.words)) / text.num_words


def _long_words(text: Text) -> float:
    return sum(len(word) >= 8 for word in text.words) / text.num_words


PROPERTIES: tuple[Property, ...] = (
    Property("length", lambda text: float(np.log(text.num_words))),
    Property("sentence_length", _sentence_words),
    Property("sentence_spread", _spread),
    Property("first_sentence", _first_sentence),
    Property("word_length", lambda text: mean_length(text.words)),
    Property("short_words", lambda text: sum(len(word) <= 3 for word in text.words) / text.num_words),
    Property("variety", _variety),
    Property("list_lines", lambda text: float(np.sqrt(text.num_list_lines))),
    Property("lines", lambda text: float(np.log(max(len(text.lines), 1)))),
    Property("emphasis", lambda text: text.rate("*_#`")),
    Property("first_singular", lambda text: text.share(FIRST_SINGULAR)),
    Property("second_person", lambda text: text.share(SECOND_PERSON)),
    Property("question_marks", lambda text: text.rate("?")),
    Property("contractions", _contractions),
    Property("hedges", lambda text: text.share(CAUTIOUS)),
    Property("digits", lambda text: text.rate("0123456789")),
    Property("connectives", lambda text: text.share(CONNECTIVES)),
    Property("positive", lambda text: text.share(POSITIVE)),
    Property("warm_words", lambda text: text.share(WARM)),
    Property("past_tense", lambda text: text.ending("ed")),
    Property("capitals", lambda text: float(np.sqrt(sum(w[0].isupper() for w in text.raw.split()) / text.num_words))),
    Property("pointers", lambda text: text.share(POINTERS)),
    Property("grammar", lambda text: text.share(GRAMMAR)),
    Property("auxiliaries", lambda text: text.share(AUXILIARIES)),
    Property("symbols", _symbols),
    Property("pauses", lambda text: text.rate(",;:-–—")),
    Property("enclosures", lambda text: text.rate('()[]{}"“”')),
    Property("short_lines", _short_lines),
    Property("distinct", _distinct),
    Property("long_words", _long_words),
)
