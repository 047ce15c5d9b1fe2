"""The scripted engine's words: what they measure, and how steering tilts their choice.

A word's features are properties of its spelling, roughly centred over the vocabulary; an answer's are their mean.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from serve.engines.feature_space import FeatureSpace
from serve.engines.protocol import Delta, EngineArm, Features
from serve.engines.worker_messages import Projection

VOCABULARY = (
    *("a", "answer", "and", "any", "as", "at", "be", "but", "by", "can", "clear", "do", "each", "for", "from", "good"),
    *("has", "here", "if", "in", "is", "it", "just", "like", "long", "may", "more", "not", "of", "on", "one", "or"),
    *(
        "plain",
        "say",
        "short",
        "so",
        "some",
        "that",
        "the",
        "then",
        "there",
        "this",
        "to",
        "use",
        "way",
        "well",
        "what",
    ),
)
TOKEN = re.compile(r"\s*\S+|\s+$")
WORD_FEATURES = ("long_words", "o_words", "early_words", "vowel_endings")  # P = 4
STEERING_GAIN = 5.0  # logits of a word per unit of dose and of its feature along the steering


def scripted_feature_space(model: str) -> FeatureSpace:
    """Return the scripted engine's features: those of its words, as they are."""
    size = len(WORD_FEATURES)
    identity, zeros, ones = np.eye(size, dtype=np.float32), np.zeros(size, np.float32), np.ones(size, np.float32)
    return FeatureSpace(model, (0,), 0, Projection(identity, zeros, ones), identity, max_dose=1.0)


def features_of_words(answers: Sequence[Sequence[str]], feature_space: str) -> Features:
    """Measure answers given as words: the mean of their features."""
    rows = [
        np.mean([word_features(word) for word in words], axis=0) if words else np.full(len(WORD_FEATURES), np.nan)
        for words in answers
    ]
    counts = tuple(len(words) for words in answers)
    return Features(feature_space, counts, np.array(rows, dtype=np.float32).reshape(len(rows), len(WORD_FEATURES)))


def word_features(word: str) -> NDArray[np.float64]:
    """Measure one word, (P,), about centred over the vocabulary."""
    plain = word.strip().strip(".").lower()
    return np.array(
        [
            (len(plain) - 3.2) / 1.3,
            2.0 * ("o" in plain) - 0.6,
            1.0 if plain < "g" else -0.5,
            1.0 if plain.endswith(("a", "e", "i", "o", "u", "y")) else -0.5,
        ]
    )


def word_weights(arm: EngineArm | None) -> list[float] | None:
    """Weigh the vocabulary for a steered arm; None for an arm that is not."""
    length = math.hypot(*arm.coeffs) if arm is not None else 0.0
    if arm is None or arm.dose == 0.0 or length == 0.0:
        return None
    along = np.array(arm.coeffs) / length
    scores = [STEERING_GAIN * arm.dose * float(word_features(word) @ along) for word in VOCABULARY]
    return [math.exp(score) for score in scores]


def with_ids(delta: Delta) -> Delta:
    """Give a delta the ids of its words."""
    return msgspec.structs.replace(delta, token_ids=[zlib.crc32(word.encode()) for word in TOKEN.findall(delta.text)])
