"""What a next turn says of the answer before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve.conversation import digest_of, signal_of
from tests.serve.api.people import MODEL, Palate, running

QUESTION = "How do I boil an egg well?"


def turns(last: str, first: str = QUESTION, answer: str | None = "Boil it.") -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": first},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": last},
    ]


@pytest.mark.parametrize(
    ("last", "kind", "value"),
    [
        ("Thanks!", "thanks", 1),
        ("That's exactly what I needed", "thanks", 1),
        ("Perfect, thank you.", "thanks", 1),
        ("No, I meant a fried egg", "correction", -1),
        ("That’s wrong.", "correction", -1),
        ("too long", "correction", -1),
        ("Please rewrite it as a list", "correction", -1),
        ("how do I boil an egg well", "repetition", -1),
    ],
)
def test_clear_signals(last: str, kind: str, value: int) -> None:
    signal = signal_of(turns(last))
    assert signal is not None
    assert (signal.kind, signal.value, signal.answer) == (kind, value, "Boil it.")


@pytest.mark.parametrize(
    "last",
    [
        "And how do I fry one?",
        "Thanks, but now tell me about bread",
        "Thanks. Please write me a long text about bread with all that one needs to know about it",
        "No problem, next question",
        "Nothing else",
        "yes",
        "",
    ],
)
def test_anything_else_is_no_signal(last: str) -> None:
    assert signal_of(turns(last)) is None


def test_only_a_turn_after_an_answer_counts() -> None:
    assert signal_of(turns("Thanks!")[2:]) is None
    assert signal_of(turns("Thanks!")[:2]) is None
    assert signal_of(turns("Thanks!", answer=None)) is None
    assert signal_of([{"role": "user", "content": "Thanks!"}] * 3) is None


def test_white_space_does_not_change_an_answers_name() -> None:
    assert digest_of("a  b\n") == digest_of("a b") != digest_of("ab")


async def converse(palate: Palate, last: str, answer: dict[str, Any]) -> None:
    messages = turns(last, "hi", answer["choices"][0]["message"]["content"])
    response = await palate.client.post(
        "/v1/chat/completions", json={"model": MODEL, "messages": messages, "user": "ann"}
    )
    assert response.status_code == 200
    await palate.context.pipeline.shutdown()
    await palate.memory.desk.settled()


async def test_a_correction_becomes_weak_feedback_that_can_be_seen_and_withdrawn(tmp_path: Path) -> None:
    async with running(tmp_path, feedback={"implicit": True}) as palate:
        answer = await palate.ask()
        for _ in range(2):  # a conversation is sent again with every turn, and counts once
            await converse(palate, "No, that is wrong", answer)
        (row,) = (await palate.see("/v1/feedback?user=ann"))["data"]
        assert (row["kind"], row["value"], row["inferred"]) == ("implicit", -1, True)
        assert (row["completion_ids"], row["metadata"]) == ([answer["id"]], {"signal": "correction"})
        assert (await palate.see("/v1/users/ann"))["num_counting"] == 1
        assert (await palate.client.delete(f"/v1/feedback/{row['id']}")).status_code == 200
        assert (await palate.see("/v1/users/ann"))["num_counting"] == 0


async def test_nothing_is_inferred_unless_the_operator_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as palate:
        await converse(palate, "No, that is wrong", await palate.ask())
        assert (await palate.see("/v1/feedback"))["data"] == []


async def test_turns_about_other_answers_say_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, feedback={"implicit": True}) as palate:
        await palate.ask()
        await converse(palate, "Thanks!", {"choices": [{"message": {"content": "an answer from elsewhere"}}]})
        assert (await palate.see("/v1/feedback"))["data"] == []
