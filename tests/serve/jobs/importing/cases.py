"""Small files in the published formats, written for these tests."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

END = "<|end_of_text|>"


def model(content: str | None, turn: int, number: int, score: float | None, *, chosen: bool = False) -> dict[str, Any]:
    return {
        "turn": turn,
        "role": "model",
        "content": content,
        "model_name": "some-model",
        "model_provider": "somebody",
        "within_turn_id": number,
        "score": score,
        "if_chosen": chosen,
    }


def person(content: str, turn: int) -> dict[str, Any]:
    return {"turn": turn, "role": "user", "content": content, "score": None, "if_chosen": None}


PRISM = [
    {
        "conversation_id": "c1",
        "user_id": "user7",
        "conversation_type": "unguided",
        "conversation_history": [
            person("Is tea better than coffee?", 0),
            model("Tea, clearly.", 0, 0, 40),
            model("It depends on your taste.", 0, 1, 90, chosen=True),
            model("Coffee.", 0, 2, 10),
            model("There is no answer.", 0, 3, 60),
            person("And for the morning?", 1),
            model("Many people like coffee then.", 1, 0, 70, chosen=True),
            model("Tea.", 1, 1, 70),
        ],
    },
    {
        "conversation_id": "c2",
        "user_id": "user8",
        "conversation_type": "values guided",
        "conversation_history": [
            person("Tell me of justice.", 0),
            model("Gladly.", 0, 0, 50, chosen=True),
            model(None, 0, 1, None),
        ],
    },
]

COMMUNITY = [
    {
        "conversation_id": "77",
        "assigned_lang": "en",
        "annotator_id": "a3",
        "first_turn_prompt": "Plan a weekend.",
        "first_turn_response_a": f"Go hiking.{END}",
        "first_turn_response_b": "Read books.",
        "first_turn_response_c": "Meet friends.",
        "first_turn_response_d": "Rest.",
        "first_turn_preferred_response": "response_c",
        "first_turn_feedback": "I like company.",
        "second_turn_prompt": "Where?",
        "second_turn_response_a": "At home.",
        "second_turn_response_b": "In town.",
        "second_turn_response_c": "",
        "second_turn_response_d": "",
        "second_turn_preferred_response": "response_b",
        "second_turn_feedback": "",
        "third_turn_prompt": "",
        "third_turn_preferred_response": "",
        "annotator_country": "US",
        "is_pregenerated_first_prompt": "True",
    }
]


def rated(response: str, ratings: tuple[str, str, str, str], overall: float) -> dict[str, Any]:
    aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    annotations = {
        aspect: {"Rating": rating, "Rationale": "…"} for aspect, rating in zip(aspects, ratings, strict=True)
    }
    return {"model": "m", "response": response, "annotations": annotations, "overall_score": overall}


ULTRAFEEDBACK = [
    {
        "source": "evol_instruct",
        "instruction": "Name a colour.",
        "models": ["m", "m", "m"],
        "completions": [
            rated("Blue.", ("5", "4", "N/A", "3"), 7.0),
            rated("A colour is green.", ("4", "4", "5", "5"), 8.0),
            rated("No.", ("1", "2", "5", "1"), 1.0),
        ],
        "correct_answers": ["None"],
    }
]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path
