"""Named attributes: what an operator or a person can ask for by name, each a number read off a text.

Probes of them become named rows of the reward basis, so that tastes can be read and explicit weights work on a fresh
install. Evaluation people must not care about these very numbers; their tastes are in `serve.jobs.simulated.tastes`.
"""

from __future__ import annotations

import numpy as np

from serve.jobs.learning.text import Property, Text, lexicon

WARM = lexicon(
    "glad happy happily love lovely wonderful great thank thanks welcome hope enjoy sorry dear friend friends "
    "care caring kind kindly support together appreciate excited delighted pleasure feel warm smile best "
    "congratulations heart joy"
)
FORMAL = lexicon(
    "therefore furthermore moreover consequently additionally regarding pursuant thus hence whereas ensure "
    "provide utilize facilitate demonstrate indicate obtain require sufficient subsequent accordingly "
    "respective nevertheless comprehensive significant essential appropriate various individuals individual "
    "approach implement potential effectively crucial"
)
CAUTIOUS = lexicon(
    "may might could possibly perhaps likely probably generally typically usually often sometimes somewhat "
    "seems seem appears suggest suggests potentially tend tends unlikely maybe approximately about almost "
    "around"
)


def _log_length(text: Text) -> float:
    return float(np.log(text.num_words))


def _formal(text: Text) -> float:
    learned = text.ending("tion", "sion", "ment", "ance", "ence", "ity", min_length=6)
    return text.share(FORMAL) + learned


def _warm(text: Text) -> float:
    return text.share(WARM)


def _mean_word(text: Text) -> float:
    return sum(map(len, text.words)) / text.num_words


ATTRIBUTES: tuple[Property, ...] = (
    Property("concise", lambda text: -_log_length(text)),
    Property("formal", _formal),
    Property("warm", _warm),
    Property("lists", lambda text: float(np.sqrt(text.num_list_lines))),
    Property("questions", lambda text: text.rate("?")),
    Property("plain_words", lambda text: -_mean_word(text)),
    Property("cautious", lambda text: text.share(CAUTIOUS)),
)
