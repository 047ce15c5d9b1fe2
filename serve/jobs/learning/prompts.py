"""Prompts for generation, and how they are kept apart: for learning, for a person's feedback, for evaluation.

The prompts that come along are 249 instructions people wrote (self-instruct, Apache-2.0; `data/SOURCE.json`). The split
depends on each prompt's text alone, so that it is the same in every job and in every file. Knows no models.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from serve.errors import ConfigurationError

DEFAULT_PROMPTS = Path(__file__).parent / "data" / "user_oriented.jsonl"
LEARNING_SHARE = 0.56
FEEDBACK_SHARE = 0.2


class Role(StrEnum):
    """What a prompt may be used for."""

    LEARNING = "learning"  # feature spaces, populations, directions
    FEEDBACK = "feedback"  # what evaluated people judge
    EVALUATION = "evaluation"  # what they are then served


@dataclass(frozen=True, slots=True)
class Prompt:
    """One user message."""

    id: str
    text: str

    @property
    def role(self) -> Role:
        """The prompt's only use, decided by a hash of its text."""
        digest = hashlib.sha256(self.text.encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        if share < LEARNING_SHARE:
            return Role.LEARNING
        return Role.FEEDBACK if share < LEARNING_SHARE + FEEDBACK_SHARE else Role.EVALUATION


def load_prompts(path: Path = DEFAULT_PROMPTS) -> list[Prompt]:
    """Read prompts, one JSON object a line with `id` and `prompt`.

    Raises:
        ConfigurationError: the file is not of that shape, or two prompts share an id.
    """
    prompts = []
    try:
        for number, line in enumerate(path.read_text().split("\n"), start=1):
            if line.strip():
                row = json.loads(line)
                prompts.append(Prompt(str(row.get("id", number)), row["prompt"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f'{path} cannot be read as prompts: {error}. Give one JSON object a line: {{"id": …, "prompt": …}}.'
        ) from error
    if len({prompt.id for prompt in prompts}) != len(prompts) or not prompts:
        raise ConfigurationError(f"{path} needs at least one prompt, and a different id for each.")
    return prompts


def digest_of(prompts: list[Prompt]) -> str:
    """Hash prompts, in their order."""
    return hashlib.sha256(json.dumps([[prompt.id, prompt.text] for prompt in prompts]).encode()).hexdigest()


def of_role(prompts: list[Prompt], role: Role) -> list[Prompt]:
    """Keep the prompts of one role, in order."""
    return [prompt for prompt in prompts if prompt.role is role]
