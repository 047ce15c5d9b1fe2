"""Feedback that people give without meaning to: a next turn that thanks, corrects, or asks the same again.

A few plain English patterns on the last user turn (the signals that WildFeedback and DRIFT mine with a large model); it
would rather miss one than invent one. Knows no people and no store.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

MAX_THANKS_WORDS = 12  # longer turns that begin with thanks usually go on to ask for something else
MIN_REPEATED_WORDS = 4
REPEATED_SHARE = 0.8  # Jaccard similarity of two turns' words

_WORD = re.compile(r"\w+")
_THANKS = re.compile(
    r"^\W*(thanks|thank you|thx|perfect|excellent|awesome|exactly|brilliant|well done|love it|"
    r"that(?:'s| is| was) (?:great|perfect|exactly|helpful|very helpful|what i (?:needed|wanted)))\b"
)
_CORRECTION = re.compile(
    r"^\W*(no\b(?! (?:problem|worries|thanks|thank|need))|nope\b|wrong\b|incorrect\b|not what i\b|"
    r"i (?:meant|said|asked)\b|"
    r"you (?:misunderstood|did(?:n't| not)|forgot|ignored)\b|that(?:'s| is) (?:wrong|incorrect|not)\b|(?:please )?"
    r"(?:try again|redo|rewrite|do it again)\b|too (?:long|short|formal|casual|complicated|vague)\b)"
)

SignalKind = Literal["thanks", "correction", "repetition"]


@dataclass(frozen=True, slots=True)
class Signal:
    """What the last turn says about the answer before it."""

    kind: SignalKind
    value: int  # 1 or -1
    answer: str  # the answer it is about
    remark: str  # the person's words


def signal_of(messages: Sequence[Mapping[str, Any]]) -> Signal | None:
    """Read the last turn of a conversation, as the chat template sees it; None if it says nothing clear."""
    if len(messages) < 3 or [message.get("role") for message in messages[-2:]] != ["assistant", "user"]:
        return None
    answer, turn = messages[-2].get("content"), messages[-1].get("content")
    if not (isinstance(answer, str) and isinstance(turn, str) and answer.strip()):
        return None
    said = turn.lower().replace("’", "'")
    words = _WORD.findall(said)
    if _CORRECTION.match(said):
        return Signal("correction", -1, answer, turn)
    if _THANKS.match(said) and len(words) <= MAX_THANKS_WORDS and "but" not in words:
        return Signal("thanks", 1, answer, turn)
    before = next((m.get("content") for m in reversed(messages[:-2]) if m.get("role") == "user"), None)
    if isinstance(before, str) and _is_same(words, _WORD.findall(before.lower())):
        return Signal("repetition", -1, answer, turn)
    return None


def _is_same(words: Sequence[str], before: Sequence[str]) -> bool:
    one, other = set(words), set(before)
    return min(len(one), len(other)) >= MIN_REPEATED_WORDS and len(one & other) >= REPEATED_SHARE * len(one | other)


def digest_of(answer: str) -> str:
    """Name an answer's text, so that a later turn can say which answer it follows; the text need not be kept."""
    return hashlib.sha256(" ".join(answer.split()).encode()).hexdigest()[:32]
