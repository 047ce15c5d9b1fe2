"""The broad family of text properties that simulated people of the population care about.

They stand in for everyone's feedback until there is some: a basis that reads these reads much of what people can differ
about. What evaluation people care about is measured otherwise, in `serve.jobs.simulated.tastes`.
"""

from __future__ import annotations

import numpy as np

from serve.jobs.learning.attributes import CAUTIOUS, WARM
from serve.jobs.learning.text import Property, Text, lexicon, mean_length

POSITIVE = lexicon(
    "good great best better excellent positive success successful improve improved beautiful easy happy effective"
    " valuable benefit benefits helpful strong amazing perfect rich safe win interesting unique important bright nice"
)
SECOND_PERSON = lexicon("you your yours yourself you're you've you'll you'd")
FIRST_SINGULAR = lexicon("i me my mine myself i'm i've i'd i'll")
POINTERS = lexicon("the a an this that these those its their his her our your my")
GRAMMAR = lexicon("of in to for with on at by from as and or but if that which who it is are was be not")
AUXILIARIES = lexicon("is are was were be been being am has have had do does did will would can could")
THIRD_PERSON = lexicon("he she they him her them his hers their it its one everyone people someone")


def _sentence_words(text: Text) -> float:
    return float(np.log(text.num_words / text.num_sentences))


def _variety(text: Text) -> float:
    """Distinct words over the square root of words (Guiraud): nearly free of length."""
    return len(set(text.words)) / float(np.sqrt(text.num_words))


def _capitals(text: Text) -> float:
    return float(np.sqrt(sum(word[0].isupper() for word in text.raw.split()) / text.num_words))


def _short_lines(text: Text) -> float:
    """Share of lines of fewer than seven words, as headings and fragments have them."""
    return sum(len(line.split()) < 7 for line in text.lines) / max(len(text.lines), 1)


def _long_words(text: Text) -> float:
    return sum(len(word) >= 8 for word in text.words) / text.num_words


PROPERTIES: tuple[Property, ...] = (
    Property("length", lambda text: float(np.log(text.num_words))),
    Property("sentence_length", _sentence_words),
    Property("word_length", lambda text: mean_length(text.words)),
    Property("long_words", _long_words),
    Property("variety", _variety),
    Property("lines", lambda text: float(np.log(max(len(text.lines), 1)))),
    Property("list_lines", lambda text: float(np.sqrt(text.num_list_lines))),
    Property("short_lines", _short_lines),
    Property("first_singular", lambda text: text.share(FIRST_SINGULAR)),
    Property("second_person", lambda text: text.share(SECOND_PERSON)),
    Property("third_person", lambda text: text.share(THIRD_PERSON)),
    Property("question_marks", lambda text: text.rate("?")),
    Property("exclamations", lambda text: text.rate("!")),
    Property("apostrophes", lambda text: text.rate("'’")),
    Property("digits", lambda text: text.rate("0123456789")),
    Property("capitals", _capitals),
    Property("pauses", lambda text: text.rate(",;:-–—")),
    Property("enclosures", lambda text: text.rate('()[]{}"“”')),
    Property("pointers", lambda text: text.share(POINTERS)),
    Property("grammar", lambda text: text.share(GRAMMAR)),
    Property("auxiliaries", lambda text: text.share(AUXILIARIES)),
    Property("past_tense", lambda text: text.ending("ed")),
    Property("positive", lambda text: text.share(POSITIVE)),
    Property("warm_words", lambda text: text.share(WARM)),
    Property("hedges", lambda text: text.share(CAUTIOUS)),
)
