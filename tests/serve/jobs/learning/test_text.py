"""Properties measured of texts."""

from __future__ import annotations

import numpy as np
import pytest

from serve.jobs.learning.attributes import ATTRIBUTES
from serve.jobs.learning.properties import PROPERTIES
from serve.jobs.learning.text import Property, Standard, Text, measure
from serve.jobs.simulated.tastes import FOREIGN

PLAIN = "The house is old. It was sold."
# What raises each named attribute, against the plain text.
RAISED = {
    "concise": "Sold.",
    "formal": "Furthermore, the acquisition demonstrates significant improvement.",
    "warm": "Thank you, my dear friend! What a wonderful, lovely day!",
    "lists": "- one\n- two\n- three",
    "questions": "Is it old? Was it sold?",
    "plain_words": "It is so. He had it.",
    "cautious": "Perhaps it may be old, and probably it could be sold.",
    "personal": "I sold my house and we left.",
}


def value(name: str, text: str) -> float:
    family = [one for one in ATTRIBUTES if one.name == name]
    return float(measure([text], family)[0, 0])


@pytest.mark.parametrize("name", [one.name for one in ATTRIBUTES])
def test_a_named_attribute_rises_with_what_it_names(name: str) -> None:
    assert value(name, RAISED[name]) > value(name, PLAIN)


def test_words_sentences_and_lists() -> None:
    text = Text("Hello there! It’s 5 o'clock.\n\n1. one\n2) two\n* three\nDone")
    assert text.words[:4] == ["hello", "there", "it's", "o'clock"]
    assert text.num_list_lines == 3
    assert text.sentences[:2] == ["Hello there", "It’s 5 o'clock"]
    assert len(text.lines) == 5


@pytest.mark.parametrize("text", ["", " \n", "?", "42", "a", "word " * 500])
def test_every_property_is_finite_on_odd_texts(text: str) -> None:
    assert np.isfinite(measure([text], (*ATTRIBUTES, *PROPERTIES, *FOREIGN))).all()


def test_no_name_and_no_measure_is_in_two_families() -> None:
    families = (ATTRIBUTES, PROPERTIES, FOREIGN)
    names = [one.name for family in families for one in family]
    assert len(set(names)) == len(names)
    rng = np.random.default_rng(0)
    vocabulary = [
        "the",
        "a",
        "you",
        "is",
        "of",
        "house",
        "I'm",
        "not,",
        "(so)",
        "must:",
        "think",
        "12",
        "good!",
        "very?",
        "although",
        "-",
        "the\n\n",
    ]
    texts = [" ".join(rng.choice(vocabulary, size=60)) for _ in range(50)]
    hidden, named = measure(texts, (*PROPERTIES, *FOREIGN)), measure(texts, ATTRIBUTES)
    for column in hidden.T:
        for other in named.T:
            assert column.std() == 0 or other.std() == 0 or abs(np.corrcoef(column, other)[0, 1]) < 0.999


def test_the_standard_saturates() -> None:
    family = [Property("words", lambda text: float(len(text.words)))]
    values = measure(["a", "a b", "a b c"], family)
    standard = Standard.of(values)
    assert standard(values).mean() == pytest.approx(0.0)
    assert standard(np.array([[1000.0]]))[0, 0] == 3.0
    assert Standard.of(np.ones((3, 1)))(np.ones((1, 1)))[0, 0] == 0.0
