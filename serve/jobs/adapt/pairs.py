"""Pairs of answers of which a prototype prefers the first: from a model's own answers, and from what people said.

A model's answers (`palate features generate`) are labelled by the prototype's reward through the artifact's basis,
which everybody's feedback taught: that needs nobody's text. Where texts were kept, people's own judgements count as
well, each as far as the person belongs to the prototype. Knows neither stores nor training.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from router.types import Array
from serve.artifacts.artifact import Artifact, Question
from serve.errors import ConfigurationError
from serve.jobs.fit.influence import share_scales
from serve.jobs.learning.corpus import Corpus
from serve.jobs.learning.make import learning_rows
from serve.jobs.learning.questions import repeats_itself
from serve.jobs.learning.spaces import project
from serve.questions import question_id
from user_store.types import FeedbackEvent, FeedbackKind
from user_store.validation import JsonValue

MIN_GAP = 0.5  # logits between the answers of a pair; nearer ones are mostly noise of the reading
MAX_BY_PERSON = 50  # newest pairs
WRITINGS = (FeedbackKind.EDIT, FeedbackKind.DEMONSTRATION)
GRADES = (FeedbackKind.THUMB, FeedbackKind.RATING)


@dataclass(frozen=True, slots=True)
class Said:
    """One answer as a model or a person gave it."""

    text: str
    is_whole: bool = True  # ended by itself: then its end is learned too


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one conversation, the better one first."""

    messages: tuple[tuple[str, str], ...]  # role and text of each
    chosen: Said
    rejected: Said
    weight: float = 1.0


def taste_of(artifact: Artifact, prototype: int) -> Array:
    """Return the weights (D,) by which a prototype judges: the shared ones and its own.

    Raises:
        ConfigurationError: the artifact has no such prototype.
    """
    population = artifact.population
    if not 0 <= prototype < population.num_prototypes:
        raise ConfigurationError(
            f"{artifact.version} has prototypes 0 to {population.num_prototypes - 1}, not {prototype}."
        )
    return np.asarray(population.base_weights + population.means[prototype])


def corpus_pairs(corpus: Corpus, artifact: Artifact, prototype: int, per_prompt: int) -> list[Pair]:
    """Pair the answers to each learning prompt: the best with the worst, the next best with the next worst, and so on.

    Raises:
        ConfigurationError: the corpus is of another model, or lacks a layer.
    """
    if corpus.recipe["model"] != artifact.feature_space.model:
        raise ConfigurationError(f"The corpus is of {corpus.recipe['model']}, not of {artifact.feature_space.model}.")
    rows = learning_rows(corpus)
    features = artifact.population.features(project(corpus, artifact.feature_space)[rows])  # (n, D)
    rewards = features @ taste_of(artifact, prototype)
    prompts = corpus.prompt_numbers()[rows]
    pairs: list[Pair] = []
    for prompt in np.unique(prompts):
        mine = np.flatnonzero(prompts == prompt)
        order = mine[np.argsort(-rewards[mine], kind="stable")]
        good = [i for i in order if not repeats_itself(corpus.samples[rows[i]].text)]
        for best, worst in zip(good[:per_prompt], order[::-1], strict=False):
            if rewards[best] - rewards[worst] < MIN_GAP:
                break
            first, second = corpus.samples[rows[best]], corpus.samples[rows[worst]]
            pairs.append(
                Pair(
                    (("user", first.prompt),),
                    Said(first.text, first.is_finished),
                    Said(second.text, second.is_finished),
                )
            )
    return pairs


def told_pairs(events: Sequence[FeedbackEvent], questions: Iterable[Question]) -> list[Pair]:
    """Read pairs off one person's standing events, the newest ones if there are many; none without texts.

    Choices, rankings (neighbours) and what a person wrote are pairs by themselves. Thumbs and ratings become pairs with
    others of their kind on the same conversation.
    """
    asked = {question_id(question): question for question in questions}
    pairs: list[Pair] = []
    grades: dict[tuple[FeedbackKind, tuple[tuple[str, str], ...]], dict[str, float]] = {}
    for event in events:
        found = _texts(event, asked)
        if found is None:
            continue
        messages, texts = found
        if event.kind in GRADES:
            choice = event.payload.get("choice", 0)
            if isinstance(choice, int) and 0 <= choice < len(texts) and isinstance(event.value, int | float):
                grades.setdefault((event.kind, messages), {})[texts[choice]] = float(event.value)
            continue
        pairs += [Pair(messages, Said(better), Said(worse)) for better, worse in _ordered(event, texts)]
    for (_, messages), graded in grades.items():
        pairs += [
            Pair(messages, Said(better), Said(worse))
            for better, high in graded.items()
            for worse, low in graded.items()
            if high > low
        ]
    return pairs[-MAX_BY_PERSON:]


def capped_weights(weights: Array, people: np.ndarray[tuple[int], np.dtype[np.int64]], max_share: float) -> Array:
    """Scale pairs' weights (n,) down so that none of the `people` (n,) holds more than `max_share` of what was said.

    Raises:
        ConfigurationError: so few people cannot all hold so little.
    """
    totals: Array = np.bincount(people, weights).astype(np.float64)
    return np.asarray(weights * share_scales(totals, max_share)[people])


def _texts(event: FeedbackEvent, asked: dict[str, Question]) -> tuple[tuple[tuple[str, str], ...], list[str]] | None:
    """Return the conversation and the texts an event is about, where they were kept."""
    question = asked.get(str(event.payload.get("question_id")))
    if question is not None:
        return (("user", question.prompt),), list(question.answers)
    messages, texts = event.payload.get("messages"), event.payload.get("candidates")
    if not isinstance(messages, list) or not isinstance(texts, list):
        return None
    turns = [_turn(message) for message in messages]
    if None in turns or not turns:
        return None
    return tuple(turn for turn in turns if turn is not None), [str(text) for text in texts]


def _turn(message: JsonValue) -> tuple[str, str] | None:
    """Read one message of plain text; None for pictures, tool calls and the like."""
    if not isinstance(message, dict) or message.keys() - {"role", "content", "name"}:
        return None
    role, content = message.get("role"), message.get("content")
    return (role, content) if isinstance(role, str) and isinstance(content, str) else None


def _ordered(event: FeedbackEvent, texts: list[str]) -> list[tuple[str, str]]:
    """Return (better, worse) of what an event says."""
    value = event.value
    if event.kind is FeedbackKind.COMPARISON and isinstance(value, int) and 0 <= value < len(texts):
        return [(texts[value], other) for i, other in enumerate(texts) if i != value and other != texts[value]]
    if event.kind is FeedbackKind.RANKING and isinstance(value, list):
        order = [texts[i] for i in value if isinstance(i, int) and 0 <= i < len(texts)]
        return [(better, worse) for better, worse in itertools.pairwise(order) if better != worse]
    if event.kind in WRITINGS and isinstance(value, str):
        return [(value, other) for other in texts if other != value]
    return []
