"""Readers of published collections, and of plain JSON lines and CSV, row by row.

PRISM (Kirk et al. 2024): `conversations.jsonl`, a person's conversations with scored answers a turn. Community
Alignment (Zhang et al. 2025): one row a conversation, up to four turns with four answers and the one preferred.
UltraFeedback (Cui et al. 2023): answers rated by aspect, no people; each aspect becomes some. Knows nothing of servers.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.jobs.importing.judgement import Judgement, Message, by_scores

TURNS = ("first", "second", "third", "fourth")
LETTERS = ("a", "b", "c", "d")
END = "<|end_of_text|>"
ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
MAX_STARS = 5
TEXTS = ("rejected", "others")  # columns of one text, or of several as a JSON list
Row = Mapping[str, Any]
Reader = Callable[[Row], Iterator[Judgement]]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read, and why."""

    path: Path
    number: int
    reason: str


def read(paths: list[Path], reader: Reader) -> Iterator[Judgement | BadRow]:
    """Read files, by their suffix JSON lines (`.jsonl`, `.json`) or CSV (`.csv`), in constant memory."""
    for path in paths:
        number = 0
        for number, row in rows_of(path):
            try:
                yield from list(reader(row))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                yield BadRow(path, number, f"{type(error).__name__}: {error}")
        if not number:
            yield BadRow(path, 0, "the file holds no rows")


def rows_of(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield rows with their numbers from 1; a line that is not JSON comes as a row that says so."""
    if path.suffix == ".csv":
        csv.field_size_limit(10_000_000)
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, cells in enumerate(csv.DictReader(file), start=1):
                yield number, cells | {name: _cell(cells[name]) for name in TEXTS if cells.get(name)}
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError:
                    yield number, {}


def prism(row: Row) -> Iterator[Judgement]:
    """Read a conversation of PRISM's `conversations.jsonl`: each turn's answers, scored 1 to 100, in their context."""
    history: list[Message] = []
    turns: dict[int, list[Row]] = {}
    for utterance in row["conversation_history"]:
        turns.setdefault(int(utterance["turn"]), []).append(utterance)
    for number in sorted(turns):
        said = [one for one in turns[number] if one["role"] == "user"]
        answers = [one for one in turns[number] if one["role"] == "model" and _text(one["content"])]
        if not said:
            return
        history.append({"role": "user", "content": _text(said[0]["content"])})
        chosen = next((index for index, one in enumerate(answers) if one["if_chosen"]), None)
        told = by_scores([_number(one.get("score")) for one in answers], chosen)
        if told is not None:
            yield Judgement(
                user=f"prism-{row['user_id']}",
                prompt=tuple(history),
                candidates=tuple(_text(one["content"]) for one in answers),
                kind=told[0],
                value=told[1],
                source="prism",
                metadata={"conversation": str(row["conversation_id"]), "turn": number},
            )
        if chosen is None:
            return
        history.append({"role": "assistant", "content": _text(answers[chosen]["content"])})


def community_alignment(row: Row) -> Iterator[Judgement]:
    """Read a conversation of Community Alignment: the answer preferred of four, turn by turn, with the reason given."""
    history: list[Message] = []
    for turn in TURNS:
        prompt, preferred = _text(row.get(f"{turn}_turn_prompt")), _text(row.get(f"{turn}_turn_preferred_response"))
        if not prompt or not preferred:
            return
        history.append({"role": "user", "content": prompt})
        texts = {letter: _text(row.get(f"{turn}_turn_response_{letter}")) for letter in LETTERS}
        letters = [letter for letter in LETTERS if texts[letter]]
        chosen = letters.index(preferred.removeprefix("response_").lower())
        if len(letters) > 1:
            yield Judgement(
                user=f"community-{row['annotator_id']}",
                prompt=tuple(history),
                candidates=tuple(texts[letter] for letter in letters),
                kind="comparison",
                value=chosen,
                source="community-alignment",
                reason=_text(row.get(f"{turn}_turn_feedback")) or None,
                metadata={"conversation": str(row["conversation_id"]), "language": _text(row.get("assigned_lang"))},
            )
        history.append({"role": "assistant", "content": texts[letters[chosen]]})


def ultrafeedback(row: Row) -> Iterator[Judgement]:
    """Read a prompt of UltraFeedback as judged by one of five kinds of people: who want one aspect, or all of them."""
    completions = [one for one in row["completions"] if _text(one["response"])]
    number = int.from_bytes(hashlib.sha256(str(row["instruction"]).encode()).digest()[:4])
    for aspect in (*ASPECTS, "overall"):
        if aspect == "overall":
            scores = [_number(one.get("overall_score")) for one in completions]
        else:
            scores = [_number(one["annotations"][aspect]["Rating"]) for one in completions]
        told = by_scores(scores)
        if told is not None:
            yield Judgement(
                user=f"ultrafeedback-{aspect}-{number % 20}",  # twenty of each kind, each with other prompts
                prompt=_text(row["instruction"]),
                candidates=tuple(_text(one["response"]) for one in completions),
                kind=told[0],
                value=told[1],
                source="ultrafeedback",
                metadata={"aspect": aspect, "collection": _text(row.get("source"))},
            )


def generic(row: Row) -> Iterator[Judgement]:
    """Read a row of one's own: `user`, `prompt`, and one of these, where lists may be JSON text in a CSV.

    `chosen` with `rejected` (a text or list); `candidates` with `preferred` (index), `ranking` (indices, best first) or
    `scores`; `response` with `rating` (1 to 5) or `thumb` (1 or -1), optionally with `others`.
    """
    user, prompt = _text(row["user"]), _prompt(row["prompt"])
    kind: str
    value: int | tuple[int, ...]
    if _text(row.get("chosen")):
        candidates = [_text(row["chosen"]), *_texts(row["rejected"])]
        kind, value = "comparison", 0
    elif row.get("candidates"):
        candidates = [_text(one) for one in _list(row["candidates"])]
        kind, value = _order(row)
    else:
        candidates = [_text(row["response"]), *_texts(row.get("others") or [])]
        kind = "rating" if _text(row.get("rating")) else "thumb"
        value = int(row[kind])
        if not (1 <= value <= MAX_STARS if kind == "rating" else value in (-1, 1)):
            raise ValueError(f"{kind} {value} is not one of its values")
    if not user or not all(candidates):
        raise ValueError("user and texts must not be empty")
    reason = _text(row.get("reason")) or None
    yield Judgement(user, prompt, tuple(candidates), kind, value, source="import", reason=reason)


def _order(row: Row) -> tuple[str, int | tuple[int, ...]]:
    if _text(row.get("preferred")):
        return "comparison", int(row["preferred"])
    if row.get("ranking"):
        return "ranking", tuple(int(index) for index in _list(row["ranking"]))
    told = by_scores([_number(score) for score in _list(row["scores"])])
    if told is None:
        raise ValueError("the scores prefer nothing")
    return told


def _prompt(value: Any) -> str | tuple[Message, ...]:
    if isinstance(value, list):
        return tuple({"role": str(one["role"]), "content": str(one["content"])} for one in value)
    text = _text(value)
    if not text:
        raise ValueError("prompt must not be empty")
    return text


def _texts(value: Any) -> list[str]:
    return [_text(value)] if isinstance(value, str) else [_text(one) for one in _list(value)]


def _cell(text: str) -> str | list[str]:
    """Read a cell of one text or several: a text that only looks like a list stays one."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else text


def _list(value: Any) -> list[Any]:
    found = json.loads(value) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise TypeError(f"a list was expected, not {type(found).__name__}")
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value).removesuffix(END).strip()


def _number(value: Any) -> float | None:
    """Read a score; "N/A" and nothing are none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


READERS: Mapping[str, Reader] = {
    "prism": prism,
    "community-alignment": community_alignment,
    "ultrafeedback": ultrafeedback,
    "generic": generic,
}
