"""What a person may say: one piece of feedback as it was sent, what makes no sense in it, and what it replaces.

Knows no store and no engine; completions come to it as records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serve.engines.protocol import ChatInput
from serve.errors import InvalidRequest
from serve.preferences import NUM_STARS, choices_of
from user_store.types import CompletionRecord, FeedbackKind
from user_store.validation import JsonValue

JUDGEMENTS = (FeedbackKind.THUMB, FeedbackKind.RATING, FeedbackKind.IMPLICIT)
ORDERS = (FeedbackKind.COMPARISON, FeedbackKind.RANKING)
WRITINGS = (FeedbackKind.EDIT, FeedbackKind.DEMONSTRATION)


@dataclass(frozen=True, slots=True)
class Statement:
    """One piece of feedback as it was sent. It is about completions, or about texts to `prompt`, or a question."""

    kind: FeedbackKind
    value: JsonValue = None
    completion_ids: tuple[str, ...] = ()
    choice: int = 0  # which of a completion's choices, or of the inline texts
    prompt: ChatInput | None = None
    candidates: tuple[str, ...] = ()
    question_id: str | None = None
    reason: str | None = None
    user: str | None = None
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    idempotency_key: str | None = None


def check_target(statement: Statement) -> None:
    """Raise InvalidRequest unless the statement is about something its kind can be about."""
    kind, ids = statement.kind, statement.completion_ids
    named = [bool(ids), statement.prompt is not None or bool(statement.candidates), statement.question_id is not None]
    is_own_text = kind in WRITINGS and statement.prompt is not None  # with a completion: what it is preferred to
    if sum(named) > 1 and not (is_own_text and statement.question_id is None and not statement.candidates):
        raise InvalidRequest("Name completions, or texts with their prompt, or a question: one of them.")
    if statement.prompt is None and statement.candidates:
        raise InvalidRequest("Texts are read as answers to a prompt: send 'prompt' too.", param="prompt")
    if kind in WRITINGS:
        if statement.prompt is None:
            raise InvalidRequest("What a person wrote is read as an answer: send 'prompt' too.", param="prompt")
        if kind is FeedbackKind.EDIT and not ids and not statement.candidates:
            raise InvalidRequest("An edit needs the 'completion_id', or the text it changed in 'candidates'.")
        if len(ids) > 1:
            raise InvalidRequest("A person's text replaces one completion.", param="completion_ids")
    elif kind in JUDGEMENTS:
        if len(ids) != 1 and not statement.candidates:
            raise InvalidRequest(
                f"A {kind} is about one 'completion_id', or about 'candidates'.", param="completion_id"
            )
    elif kind in ORDERS and not any(named):
        raise InvalidRequest(f"A {kind} needs completions, 'candidates' or a 'question_id'.", param="completion_id")
    elif kind is FeedbackKind.COMMENT and statement.prompt is not None:
        raise InvalidRequest("A comment is about completions or about everything, not about inline texts.")
    if not ids and statement.user is None:
        raise InvalidRequest("Say whose feedback this is: send 'user'.", param="user", code="missing_parameter")


def check_value(statement: Statement) -> None:
    """Raise InvalidRequest unless the value fits the kind."""
    kind, value = statement.kind, statement.value
    if kind in (FeedbackKind.THUMB, FeedbackKind.IMPLICIT):
        if type(value) is not int or value not in (-1, 1):
            raise InvalidRequest("The value of a thumb is 1 or -1.", param="value")
    elif kind is FeedbackKind.RATING:
        if type(value) is not int or not 1 <= value <= NUM_STARS:
            raise InvalidRequest(f"The value of a rating is 1 to {NUM_STARS}.", param="value")
    elif kind is FeedbackKind.COMPARISON:
        if type(value) is not int or value < 0:
            raise InvalidRequest("The value of a comparison is the index of the one preferred.", param="value")
    elif kind is FeedbackKind.RANKING:
        is_order = isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
        if not isinstance(value, list) or not is_order or len(value) < 2 or len(set(map(str, value))) < len(value):
            raise InvalidRequest("The value of a ranking lists two or more indices, best first.", param="value")
    elif kind is FeedbackKind.COMMENT:
        if not (isinstance(value, str) and value.strip()) and not (value is None and statement.reason):
            raise InvalidRequest("The value of a comment is its text.", param="value")
    elif not (isinstance(value, str) and value.strip()):
        raise InvalidRequest(f"The value of a {kind} is the text.", param="value")
    num_options = len(statement.candidates) or len(statement.completion_ids)
    if num_options > 1 or statement.candidates:
        check_indices(statement, num_options)


def check_choices(statement: Statement, records: Sequence[CompletionRecord]) -> None:
    """Check indices against what a single completion served; an announced one is checked when it is stored."""
    if len(records) == 1 and not records[0].is_announced_only and statement.kind is not FeedbackKind.COMMENT:
        check_indices(statement, len(choices_of(records[0])))


def check_indices(statement: Statement, num_options: int) -> None:
    """Raise InvalidRequest where a value or choice names none of so many answers."""
    if statement.kind in ORDERS:
        value = statement.value if isinstance(statement.value, list) else [statement.value]
        if num_options < 2:
            raise InvalidRequest("There is only one answer to choose from.", param="value")
        if any(int(str(index)) >= num_options for index in value):
            raise InvalidRequest(f"The value may only hold indices below {num_options}.", param="value")
    elif statement.choice >= num_options and len(statement.completion_ids) < 2:
        raise InvalidRequest(f"choice must be below {num_options}.", param="choice")


def subject_of(statement: Statement) -> str | None:
    """Name what later feedback replaces: the last judgement, order or text for the same answers counts."""
    if statement.kind is FeedbackKind.COMMENT:
        return None
    about = ["question", statement.question_id] if statement.question_id else sorted(statement.completion_ids)
    if not about:
        return None
    families = {**dict.fromkeys(JUDGEMENTS, "judged"), **dict.fromkeys(ORDERS, "ordered")}
    # What was only inferred never replaces what was said.
    family = "implied" if statement.kind is FeedbackKind.IMPLICIT else families.get(statement.kind, "written")
    digest = hashlib.sha256("\n".join([*map(str, about), str(statement.choice)]).encode()).hexdigest()[:32]
    return f"{family}:{digest}"
