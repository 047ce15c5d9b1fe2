import numpy as np
import pytest

from router.explain import attribute_directions, explain
from router.mixture import Mixture

NAMES = ("concise", "", "warm")
TASTE = Mixture(np.ones(1), np.array([[-1.0, 0.5, 0.2]]), np.diag([0.04, 0.04, 1.0])[None])
WITHOUT = {
    "e1": np.array([-0.8, 0.5, 0.2]),
    "e2": np.array([-0.2, 0.5, 0.3]),
    "e3": np.array([-1.1, 0.5, 0.2]),
    "e4": np.array([-1.0, 0.5, 0.2]),
}


def test_beliefs_carry_mean_interval_share_and_lessons() -> None:
    decisions = np.array([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0]])
    told = explain(TASTE, NAMES, np.eye(3), decisions=decisions, means_without=WITHOUT)
    concise, warm = told.attributes  # by size of mean
    assert (concise.name, warm.name) == ("concise", "warm")
    assert concise.mean == -1.0
    assert (concise.low, concise.high) == pytest.approx((-1.392, -0.608), abs=1e-3)  # ±1.96 standard deviations
    assert concise.is_decided
    assert not warm.is_decided
    assert concise.decision_share == pytest.approx(0.75)  # all of the first decision, half of the second
    assert told.unnamed_share == pytest.approx(0.25)
    assert [lesson.event_id for lesson in concise.lessons] == ["e2", "e1", "e3"]
    assert concise.lessons[0].effect == pytest.approx(-0.8)
    assert concise.lessons[2].effect == pytest.approx(0.1)  # this one spoke against it


def test_the_text_says_it() -> None:
    told = explain(TASTE, NAMES, np.eye(3), decisions=np.array([[1.0, 2.0, 0.0]]), means_without=WITHOUT)
    assert told.text.splitlines() == [
        "From 4 pieces of feedback:",
        "Likes less concise: -1.00 (-1.39 to -0.61); drove 50% of choices; learned most from e2, e1, e3.",
        "Undecided about: warm.",
        "50% of choices followed tastes that have no name.",
    ]
    sure = Mixture(np.ones(1), np.array([[1.0, 0.0, 1.0]]), 1e-6 * np.eye(3)[None])
    one = explain(sure, NAMES, np.eye(3), decisions=np.zeros((0, 3)), means_without={"e1": np.zeros(3)})
    assert one.text.startswith("From 1 piece of feedback:\nLikes more concise: +1.00")
    assert "Undecided" not in one.text
    assert "no name" not in one.text


def test_a_taste_without_a_name_shows_in_the_attributes_it_goes_with() -> None:
    response = np.array([[4.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    taste = Mixture(np.ones(1), np.array([[0.0, 2.0, 0.0]]), np.diag([0.0, 0.04, 0.0])[None])
    told = explain(taste, NAMES, response, decisions=np.array([[2.0, 1.0, 0.0]]), means_without={"e": np.zeros(3)})
    concise = told.attributes[0]
    assert concise.name == "concise"
    assert concise.mean == pytest.approx(1.0)  # Cov(reward, concise) = 2, over its standard deviation of 2
    assert (concise.low, concise.high) == pytest.approx((1.0 - 0.196, 1.0 + 0.196), abs=1e-3)
    # Of a gain of 2, one standard deviation more of it accounts for 1.
    assert (concise.decision_share, told.unnamed_share) == pytest.approx((0.5, 0.5))


def test_nothing_known_yet() -> None:
    told = explain(TASTE, NAMES, np.eye(3), decisions=np.zeros((1, 3)), means_without={})
    assert told.num_events == 0
    assert told.text == "Nothing is known yet: no feedback has been given."
    assert told.attributes[0].decision_share == 0.0  # candidates that were alike decide nothing
    assert told.attributes[0].lessons == ()


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="attribute_names"):
        explain(TASTE, ("a",), np.eye(3), decisions=np.zeros((0, 3)), means_without={})
    with pytest.raises(ValueError, match="response"):
        explain(TASTE, NAMES, np.eye(2), decisions=np.zeros((0, 3)), means_without={})
    with pytest.raises(ValueError, match="decisions"):
        explain(TASTE, NAMES, np.eye(3), decisions=np.zeros(3), means_without={})


def test_an_attributes_direction_is_what_the_explanation_reads() -> None:
    response = np.array([[2.0, 0.6, 0.1], [0.6, 1.0, 0.3], [0.1, 0.3, 0.5]])
    mean = np.array([0.7, -0.4, 1.1])
    taste = Mixture(np.ones(1), mean[None], 0.2 * np.eye(3)[None])
    names = ("brief", "", "warm")
    told = explain(taste, names, response, decisions=np.zeros((0, 3)), means_without={})
    directions = attribute_directions(names, response)
    assert set(directions) == {"brief", "warm"}
    np.testing.assert_allclose(directions["warm"], response[2] / np.sqrt(0.5))
    assert {one.name: one.mean for one in told.attributes} == pytest.approx(
        {name: float(mean @ direction) for name, direction in directions.items()}
    )
