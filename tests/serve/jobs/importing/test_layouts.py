"""What each published format says, and what is said of rows that are broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve.jobs.importing.judgement import Judgement, by_scores
from serve.jobs.importing.layouts import READERS, BadRow, read
from tests.serve.jobs.importing.cases import COMMUNITY, PRISM, ULTRAFEEDBACK, write_csv, write_lines


def judgements(layout: str, path: Path) -> list[Judgement]:
    found = list(read([path], READERS[layout]))
    assert not [one for one in found if isinstance(one, BadRow)]
    return [one for one in found if isinstance(one, Judgement)]


def test_prism_turns_are_ranked_by_their_scores_in_context(tmp_path: Path) -> None:
    first, second = judgements("prism", write_lines(tmp_path / "conversations.jsonl", PRISM))
    assert (first.user, first.kind, first.value) == ("prism-user7", "ranking", (1, 3, 0, 2))
    assert first.prompt == ({"role": "user", "content": "Is tea better than coffee?"},)
    # The scores of the second turn are equal: the choice speaks.
    assert (second.kind, second.value) == ("comparison", 0)
    assert isinstance(second.prompt, tuple)
    assert [one["content"] for one in second.prompt][1:] == ["It depends on your taste.", "And for the morning?"]
    assert second.metadata == {"conversation": "c1", "turn": 1}
    # The other conversation has one answer only, which says nothing.


def test_community_alignment_goes_turn_by_turn(tmp_path: Path) -> None:
    for path in (write_csv(tmp_path / "ca.csv", COMMUNITY), write_lines(tmp_path / "ca.jsonl", COMMUNITY)):
        first, second = judgements("community-alignment", path)
        assert (first.user, first.value, first.reason) == ("community-a3", 2, "I like company.")
        assert first.candidates[0] == "Go hiking."
        assert (second.candidates, second.value, second.reason) == (("At home.", "In town."), 1, None)
        assert isinstance(second.prompt, tuple)
        assert [one["content"] for one in second.prompt] == ["Plan a weekend.", "Meet friends.", "Where?"]


def test_ultrafeedback_aspects_become_people(tmp_path: Path) -> None:
    found = {
        one.metadata["aspect"]: one
        for one in judgements("ultrafeedback", write_lines(tmp_path / "u.jsonl", ULTRAFEEDBACK))
    }
    assert found["instruction_following"].value == (0, 1, 2)
    assert found["helpfulness"].value == (1, 0, 2)
    assert found["overall"].value == (1, 0, 2)
    # Honesty is a tie at the top, truthfulness is not rated everywhere: neither prefers anything.
    assert set(found) == {"instruction_following", "helpfulness", "overall"}
    assert len({one.user for one in found.values()}) == 3


@pytest.mark.parametrize(
    ("row", "kind", "value", "candidates"),
    [
        ({"chosen": "a", "rejected": "b"}, "comparison", 0, ("a", "b")),
        ({"chosen": "a", "rejected": ["b", "c"]}, "comparison", 0, ("a", "b", "c")),
        ({"chosen": "a", "rejected": '["b", "c"]'}, "comparison", 0, ("a", '["b", "c"]')),
        ({"chosen": "a", "rejected": "[Verse 1] La"}, "comparison", 0, ("a", "[Verse 1] La")),
        ({"candidates": '["a", "b"]', "preferred": "1"}, "comparison", 1, ("a", "b")),
        ({"candidates": ["a", "b", "c"], "ranking": [2, 0, 1]}, "ranking", (2, 0, 1), ("a", "b", "c")),
        ({"candidates": ["a", "b", "c"], "scores": [0.1, 3, 2]}, "ranking", (1, 2, 0), ("a", "b", "c")),
        ({"response": "a", "rating": "4"}, "rating", 4, ("a",)),
        ({"response": "a", "thumb": -1, "others": ["b"]}, "thumb", -1, ("a", "b")),
    ],
)
def test_rows_of_ones_own(
    tmp_path: Path, row: dict[str, Any], kind: str, value: object, candidates: tuple[str, ...]
) -> None:
    path = write_lines(tmp_path / "own.jsonl", [{"user": "ann", "prompt": "p", **row}])
    (found,) = judgements("generic", path)
    assert (found.user, found.kind, found.value, found.candidates) == ("ann", kind, value, candidates)


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        ('["b", "c"]', ("b", "c")),
        ("[Verse 1] La", ("[Verse 1] La",)),
        ("[1]", ("[1]",)),
        ("b", ("b",)),
    ],
)
def test_lists_in_cells(tmp_path: Path, cell: str, texts: tuple[str, ...]) -> None:
    rows: list[dict[str, Any]] = [
        {"user": "ann", "prompt": "p", "chosen": "a", "rejected": cell},
        {"user": "ann", "prompt": "p", "response": "a", "thumb": 1, "others": cell},
    ]
    for row in rows:
        (found,) = judgements("generic", write_csv(tmp_path / "own.csv", [row]))
        assert found.candidates == ("a", *texts)


def test_broken_rows_are_named_and_the_others_read(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    good = '{"user": "ann", "prompt": "p", "chosen": "a", "rejected": "b"}\n'
    bad = [
        '{"user": "ann"',
        '{"user": "ann", "prompt": "p", "response": "a", "rating": 9}',
        '{"user": "", "prompt": "p", "chosen": "a", "rejected": "b"}',
    ]
    path.write_text(good + "\n".join(bad) + "\n" + good)
    found = list(read([path, write_csv(tmp_path / "empty.csv", [])], READERS["generic"]))
    assert [isinstance(one, Judgement) for one in found] == [True, False, False, False, True, False]
    broken = [one for one in found if isinstance(one, BadRow)]
    assert [(one.path.name, one.number) for one in broken] == [
        ("own.jsonl", 2),
        ("own.jsonl", 3),
        ("own.jsonl", 4),
        ("empty.csv", 0),
    ]
    assert "rating 9" in broken[1].reason


def test_what_scores_say() -> None:
    assert by_scores([1, 3, 2]) == ("ranking", (1, 2, 0))
    assert by_scores([1, 3]) == ("comparison", 1)
    assert by_scores([3, 1, 1]) == ("comparison", 0)
    assert by_scores([3, 3, 1]) is None
    assert by_scores([3, 3, 1], chosen=1) == ("comparison", 1)
    assert by_scores([3, 3, 1], chosen=2) is None  # the choice contradicts the scores
    assert by_scores([None, None], chosen=1) == ("comparison", 1)
    assert by_scores([3, None, 1]) is None
    assert by_scores([3], chosen=0) is None


def test_the_same_judgement_always_has_the_same_key() -> None:
    one = Judgement("ann", "p", ("a", "b"), "comparison", 0, "import")
    assert one.body()["idempotency_key"] == one.body()["idempotency_key"]
    other = Judgement("ben", "p", ("a", "b"), "comparison", 0, "import")
    assert one.body()["idempotency_key"] != other.body()["idempotency_key"]
    assert "choice" not in one.body()
