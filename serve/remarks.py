"""What a comment in plain words says about named attributes: "shorter, please" is a wish for less length.

A small English lexicon of topics, and the words around a match that turn its meaning. It would rather hear nothing than
the wrong thing: what it does not recognise is kept as text only. Knows no features and no people.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_CHARS = 2_000  # of a remark; what follows is seldom a wish
REACH = 3  # words before a match that can turn it

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_CLAUSE = re.compile(r"[.;!?\n]|\bbut\b")
_EXCESS = frozenset({"too", "overly", "excessively"})
_LESS = frozenset(
    {"less", "fewer", "no", "not", "without", "never", "avoid", "stop", "don't", "drop", "hate", "dislike"}
)
_MORE = frozenset({"more", "prefer", "like", "love", "want", "use", "add", "give", "please", "be", "need"})


@dataclass(frozen=True, slots=True)
class Topic:
    """One scale: how attributes name its two ends, and how people speak of them."""

    high: frozenset[str]  # attribute names, and words, for much of it
    low: frozenset[str]
    higher: frozenset[str]  # comparatives: they are wishes by themselves
    lower: frozenset[str]


def _topic(high: str, low: str, higher: str = "", lower: str = "") -> Topic:
    return Topic(*(frozenset(words.split()) for words in (high, low, higher, lower)))


TOPICS = (
    _topic(
        "long length lengthy verbose wordy detailed detail details elaborate depth",
        "concise short brief brevity terse succinct concision",
        "longer",
        "shorter briefer",
    ),
    _topic("formal formality professional", "casual informal contractions slang colloquial"),
    _topic("lists list bullets bullet bulleted structured structure headings", "prose paragraphs flowing"),
    _topic(
        "warm warmth friendly kind empathetic", "cold neutral detached matter", "warmer friendlier kinder", "colder"
    ),
    _topic("simple simplicity plain easy", "technical complex jargon complicated", "simpler plainer easier"),
    _topic("enthusiastic enthusiasm excited exclamation exclamations energetic lively", "calm sober dry", "livelier"),
    _topic("funny humor humour humorous jokes playful", "serious", "funnier"),
    _topic("questions question", ""),
    _topic("emoji emojis emoticons", ""),
    _topic("examples example", ""),
)


def attributes_named(text: str, attribute_names: Sequence[str], verdict: int = 0) -> dict[str, int]:
    """Return the attributes that a remark asks for more (1) or less (-1) of.

    `verdict` is the thumb it came with, -1 or 1: then a bare "long" is a fault or a merit; 0 without one.
    """
    names = {name: _parts(name, attribute_names) for name in attribute_names if name}
    wishes: dict[str, int] = {}
    for clause in _CLAUSE.split(text[:MAX_CHARS].lower().replace("’", "'")):
        words = _WORD.findall(clause)
        for position, word in enumerate(words):
            for name, parts in names.items():
                end = _end(word, parts)
                if end:
                    wishes[name] = wishes.get(name, 0) + end * _turn(words, position, verdict)
    return {name: 1 if wish > 0 else -1 for name, wish in wishes.items() if wish}


def _parts(name: str, others: Sequence[str]) -> frozenset[str]:
    """Return the words of a name that no other attribute has: "marks" alone means neither kind of marks."""
    shared = {part for other in others if other != name for part in _words(other)}
    return frozenset(_words(name)) - shared


def _words(name: str) -> list[str]:
    return _WORD.findall(name.lower().replace("_", " "))


def _end(word: str, parts: frozenset[str]) -> int:
    """Say which end of an attribute a word speaks of: 1 for much of it, -1 for little, 0 for neither."""
    if word in parts:
        return 1
    for topic in TOPICS:
        pole = bool(parts & topic.high) - bool(parts & topic.low)
        if pole:
            side = (word in topic.high or word in topic.higher) - (word in topic.low or word in topic.lower)
            if side:
                return pole * side
    return 0


def _turn(words: Sequence[str], position: int, verdict: int) -> int:
    """Say whether the words around a match ask for it (1), against it (-1), or neither (0)."""
    word, before = words[position], set(words[max(0, position - REACH) : position])
    if words[position + 1 : position + 2] == ["enough"]:
        return 1 if before & _LESS or verdict < 0 else verdict
    if before & _EXCESS:
        return -1
    if before & _LESS:
        return -1
    is_comparative = any(word in topic.higher or word in topic.lower for topic in TOPICS)
    if is_comparative or before & _MORE or "please" in words:
        return 1
    return verdict
