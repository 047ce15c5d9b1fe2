"""What plain words ask for."""

import pytest

from serve.remarks import attributes_named

NAMES = ("concise", "formal", "lists", "", "warm", "exclamation_marks")


@pytest.mark.parametrize(
    ("text", "verdict", "wishes"),
    [
        ("shorter, please", 0, {"concise": 1}),
        ("too long", 0, {"concise": -1 * -1}),
        ("Not long enough", 0, {"concise": -1}),
        ("longer answers", 0, {"concise": -1}),
        ("Less formal please, and more lists", 0, {"formal": -1, "lists": 1}),
        ("don't use bullet points", 0, {"lists": -1}),
        ("formal", -1, {"formal": -1}),
        ("formal", 1, {"formal": 1}),
        ("formal", 0, {}),
        ("nice and short, but too formal", 1, {"concise": 1, "formal": -1}),
        ("it should be friendlier", 0, {"warm": 1}),
        ("no exclamation marks", 0, {"exclamation_marks": -1}),
        ("shorter. longer.", 0, {}),
        ("the weather is fine", 1, {}),
        ("", 0, {}),
    ],
)
def test_remarks(text: str, verdict: int, wishes: dict[str, int]) -> None:
    assert attributes_named(text, NAMES, verdict) == wishes


def test_a_word_that_two_attributes_share_names_neither() -> None:
    names = ("question_marks", "exclamation_marks")
    assert attributes_named("no marks, please", names) == {}
    assert attributes_named("fewer exclamation marks", names) == {"exclamation_marks": -1}


def test_a_scale_named_by_its_other_end_turns_the_wish() -> None:
    assert attributes_named("shorter, please", ("length",)) == {"length": -1}
