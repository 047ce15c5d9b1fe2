"""Which answer of a pair comes first, and whose word counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from router.types import Population
from serve.artifacts.artifact import Artifact
from serve.errors import ConfigurationError
from serve.jobs.adapt.pairs import MAX_BY_PERSON, MIN_GAP, capped_weights, corpus_pairs, taste_of, told_pairs
from serve.jobs.learning.corpus import Corpus
from serve.jobs.learning.prompts import Prompt, Role
from serve.jobs.learning.spaces import SpaceConfig, make_space, project
from serve.questions import question_id
from tests.serve.artifacts_for_tests import make_artifact
from tests.serve.jobs.learning.cases import make_corpus
from tests.user_store.samples import event
from user_store.types import FeedbackEvent, FeedbackKind
from user_store.validation import JsonValue

QUESTIONS = make_artifact().questions
SPACE = SpaceConfig(pooled_layers=(10, 14), steered_layer=14, num_features=4)


def artifact_of(corpus: Corpus) -> Artifact:
    """Two prototypes that want the opposite of the first feature."""
    space = make_space(corpus, np.arange(len(corpus.samples)), SPACE)
    population = Population(
        basis=np.eye(4),
        center=np.zeros(4),
        scale=np.ones(4),
        mixture_weights=np.array([0.7, 0.3]),
        means=np.array([[2.0, 0.0, 0.0, 0.0], [-2.0, 0.0, 0.0, 0.0]]),
        covariances=np.stack([0.1 * np.eye(4)] * 2),
        base_weights=np.array([0.5, 0.0, 0.0, 0.0]),
        version="two",
    )
    return Artifact(population, space, response=np.eye(4))


def test_a_prototype_judges_by_what_all_share_and_its_own() -> None:
    artifact = artifact_of(make_corpus())
    np.testing.assert_array_equal(taste_of(artifact, 1), [-1.5, 0.0, 0.0, 0.0])
    with pytest.raises(ConfigurationError, match="prototypes 0 to 1"):
        taste_of(artifact, 2)


def test_answers_to_learning_prompts_are_paired_by_the_prototypes_reward() -> None:
    corpus = make_corpus()
    artifact = artifact_of(corpus)
    first = project(corpus, artifact.feature_space)[:, 0]
    of_text = {(sample.prompt, sample.text): first[i] for i, sample in enumerate(corpus.samples)}
    likes, dislikes = (corpus_pairs(corpus, artifact, number, 3) for number in (0, 1))
    assert likes
    for pairs, weight in ((likes, 2.5), (dislikes, -1.5)):
        gaps = [of_text[p.messages[0][1], p.chosen.text] - of_text[p.messages[0][1], p.rejected.text] for p in pairs]
        assert min(weight * gap for gap in gaps) >= MIN_GAP
        assert all(Prompt("", pair.messages[0][1]).role is Role.LEARNING for pair in pairs)
        asked = [pair.messages for pair in pairs]
        assert max(asked.count(one) for one in asked) <= 3


def test_what_repeats_itself_is_never_imitated() -> None:
    corpus = make_corpus()
    artifact = artifact_of(corpus)
    best = {pair.chosen.text for pair in corpus_pairs(corpus, artifact, 0, 1)}
    spoiled = tuple(
        replace(sample, text=f"{sample.text} " + "well so it goes " * 60) if sample.text in best else sample
        for sample in corpus.samples
    )
    again = corpus_pairs(replace(corpus, samples=spoiled), artifact, 0, 1)
    assert again
    assert not any("well so it goes well" in pair.chosen.text for pair in again)


def test_whether_an_answer_was_cut_off_is_known() -> None:
    corpus = make_corpus()
    cut = tuple(replace(sample, is_finished=False) for sample in corpus.samples)
    artifact = artifact_of(corpus)
    assert all(pair.chosen.is_whole for pair in corpus_pairs(corpus, artifact, 0, 1))
    assert not any(pair.chosen.is_whole for pair in corpus_pairs(replace(corpus, samples=cut), artifact, 0, 1))


def test_a_corpus_of_another_model_is_refused() -> None:
    corpus = make_corpus()
    other = replace(corpus, recipe={**corpus.recipe, "model": "another"})
    with pytest.raises(ConfigurationError, match="corpus is of another"):
        corpus_pairs(other, artifact_of(corpus), 0, 1)


def said(kind: FeedbackKind, value: JsonValue, payload: Mapping[str, JsonValue], name: str = "e") -> FeedbackEvent:
    return event(name, kind=kind, value=value, payload=payload)


MESSAGES: list[JsonValue] = [{"role": "user", "content": "Hi"}]
TEXTS: list[JsonValue] = ["a", "b", "c"]


def readable(events: list[FeedbackEvent]) -> list[tuple[str, str]]:
    return [(pair.chosen.text, pair.rejected.text) for pair in told_pairs(events, QUESTIONS)]


def test_choices_rankings_and_what_people_wrote_are_pairs() -> None:
    inline: dict[str, JsonValue] = {"messages": MESSAGES, "candidates": TEXTS}
    assert readable([said(FeedbackKind.COMPARISON, 1, inline)]) == [("b", "a"), ("b", "c")]
    assert readable([said(FeedbackKind.RANKING, [2, 0, 1], inline)]) == [("c", "a"), ("a", "b")]
    assert readable([said(FeedbackKind.EDIT, "mine", {"messages": MESSAGES, "candidates": ["a"]})]) == [("mine", "a")]
    assert told_pairs([said(FeedbackKind.COMPARISON, 1, inline)], ())[0].messages == (("user", "Hi"),)


def test_an_answered_question_needs_no_kept_text() -> None:
    asked = question_id(QUESTIONS[2])
    first, second = QUESTIONS[2].answers
    assert readable([said(FeedbackKind.COMPARISON, 1, {"question_id": asked})]) == [(second, first)]


def test_thumbs_and_ratings_on_one_conversation_become_pairs() -> None:
    def graded(kind: FeedbackKind, value: int, choice: int, content: str = "Hi") -> FeedbackEvent:
        messages: list[JsonValue] = [{"role": "user", "content": content}]
        payload: dict[str, JsonValue] = {"messages": messages, "candidates": TEXTS, "choice": choice}
        return said(kind, value, payload, f"{kind}-{choice}")

    up, down = graded(FeedbackKind.THUMB, 1, 0), graded(FeedbackKind.THUMB, -1, 2)
    assert readable([up, down]) == [("a", "c")]
    assert readable([up, graded(FeedbackKind.THUMB, 1, 1)]) == []
    assert readable([up, graded(FeedbackKind.THUMB, -1, 2, "Another")]) == []
    rated = [graded(FeedbackKind.RATING, stars, i) for i, stars in enumerate((3, 5, 3))]
    assert set(readable([*rated, up])) == {("b", "a"), ("b", "c")}


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"messages": MESSAGES},
        {"messages": [], "candidates": TEXTS},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "candidates": TEXTS},
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}], "candidates": TEXTS},
        {"question_id": "q-unknown"},
    ],
)
def test_what_has_no_plain_text_is_no_pair(payload: dict[str, JsonValue]) -> None:
    assert readable([said(FeedbackKind.COMPARISON, 0, payload)]) == []


@pytest.mark.parametrize("value", [7, -1, "0", None])
def test_a_choice_that_is_not_there_is_no_pair(value: JsonValue) -> None:
    assert readable([said(FeedbackKind.COMPARISON, value, {"messages": MESSAGES, "candidates": TEXTS})]) == []


def test_of_many_pairs_the_newest_count() -> None:
    many = [
        said(FeedbackKind.COMPARISON, 0, {"messages": MESSAGES, "candidates": [f"new {i}", "old"]}, f"e{i}")
        for i in range(MAX_BY_PERSON + 5)
    ]
    found = readable(many)
    assert len(found) == MAX_BY_PERSON
    assert found[-1] == (f"new {MAX_BY_PERSON + 4}", "old")


def test_nobody_outweighs_the_others() -> None:
    who = np.repeat(np.arange(20), [50, *[1] * 19])
    for weights in (np.ones(69), np.full(69, 0.7)):
        totals = np.bincount(who, capped_weights(weights, who, max_share=0.05))
        assert totals.max() / totals.sum() == pytest.approx(0.05)
    weights = capped_weights(np.ones(100), np.array([0] * 90 + [1] * 5 + [2] * 5), max_share=0.4)
    assert np.bincount([0] * 90 + [1] * 5 + [2] * 5, weights).tolist() == pytest.approx([20.0 / 3.0, 5.0, 5.0])
