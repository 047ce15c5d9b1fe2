"""Artifacts made from a corpus and simulated people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from router.posterior import prior, update_many
from router.types import Comparison
from serve.artifacts.artifact import Artifact
from serve.artifacts.storage import load, read_manifest
from serve.cli import palate
from serve.jobs.learning.corpus import add_part, begin
from serve.jobs.learning.make import MakeConfig, make_artifact
from serve.jobs.learning.people import PeopleConfig
from serve.jobs.learning.spaces import SpaceConfig, project
from tests.serve.jobs.learning.cases import make_corpus

CONFIG = MakeConfig(
    space=SpaceConfig((10, 14), 14, 6), people=PeopleConfig(num_people=150, num_events=12), rank=2, num_questions=10
)


@pytest.fixture(scope="module")
def made() -> Artifact:
    return make_artifact(make_corpus(), CONFIG)[0]


def test_named_rows_have_unit_spread_and_no_shared_reward(made: Artifact) -> None:
    population = made.population
    named = [name for name in population.attribute_names if name]
    assert "lists" not in named  # no answer of this corpus has one
    assert {"concise", "plain_words"} <= set(named)
    assert population.num_features == len(population.attribute_names) == len(named) + 2
    assert not population.base_weights.any()
    phi = population.features(project(make_corpus(), made.feature_space))
    np.testing.assert_allclose(phi[:, : len(named)].std(axis=0), 1.0, rtol=0.05)
    assert (np.diag(made.response)[: len(named)] < 1.0).all()  # within prompts
    assert made.space.typical > 0


def test_ten_comparisons_find_who_likes_short_answers(made: Artifact) -> None:
    corpus = make_corpus(seed=1)
    lengths = np.array([len(sample.text.split()) for sample in corpus.samples])
    phi = made.population.features(project(corpus, made.feature_space))
    rng = np.random.default_rng(3)
    events = []
    for i in range(10):
        a, b = rng.choice(len(lengths), size=2, replace=False)
        short, long = (a, b) if lengths[a] < lengths[b] else (b, a)
        events.append(Comparison(event_id=str(i), chosen=phi[short], rejected=phi[long]))
    rewards = phi @ update_many(made.population, prior(made.population), events).mean
    assert np.corrcoef(rewards, lengths)[0, 1] < -0.6


def test_questions_are_different_answers_to_one_prompt(made: Artifact) -> None:
    corpus = make_corpus()
    prompt_of = {sample.text: sample.prompt for sample in corpus.samples}
    assert len(made.questions) >= 8
    for question in made.questions:
        assert {prompt_of[answer] for answer in question.answers} == {question.prompt}
        assert question.features.shape == (4, 6)
        assert len(set(question.answers)) == 4


def test_tokens_say_what_goes_with_them(made: Artifact) -> None:
    class Words:
        """One token a word."""

        def __init__(self) -> None:
            self.numbers: dict[str, int] = {}

        def encode(self, text: str, *, is_finished: bool) -> list[int]:
            return [self.numbers.setdefault(word, len(self.numbers)) for word in text.split()]

        def decode(self, token: int) -> str:
            return next(word for word, number in self.numbers.items() if number == token)

    words = Words()
    artifact = make_artifact(make_corpus(), CONFIG, words)[0]
    found = artifact.feature_space.token_features
    assert found is not None
    assert artifact.feature_space.id == made.feature_space.id
    assert (artifact.tilt, made.tilt) == (CONFIG.tilt, 0.0)
    # The states of this corpus carry the share of "I'm"; of the tastes, the one that goes with it most knows the word.
    samples = make_corpus().samples
    shares = [sample.text.split().count("I'm") / len(sample.text.split()) for sample in samples]
    phi = artifact.population.features(project(make_corpus(), artifact.feature_space))
    correlations = [np.corrcoef(column, shares)[0, 1] for column in phi.T]
    row = int(np.argmax(np.abs(correlations)))
    tilt = np.sign(correlations[row]) * found.features @ (artifact.population.basis / artifact.population.scale)[row]
    assert words.decode(int(found.tokens[int(np.argmax(tilt))])) == "I'm"


def test_the_command_writes_an_artifact_that_loads(tmp_path: Path) -> None:
    corpus = make_corpus()
    begin(tmp_path / "corpus", corpus.recipe)
    add_part(tmp_path / "corpus", "part-00000", corpus.samples, corpus.states)
    arguments = ["artifacts", "make", "--corpus", str(tmp_path / "corpus"), "--out", str(tmp_path / "out")]
    options = [
        "--features",
        "6",
        "--read",
        "10,14",
        "--steer",
        "14",
        "--rank",
        "1",
        "--people",
        "60",
        "--events",
        "6",
        "--max-dose",
        "0.1",
        "--min-p",
        "0.02",
        "--tilt",
        "0",
    ]
    result = CliRunner().invoke(palate, [*arguments, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    folder = Path(result.output.strip())
    assert (load(folder).max_dose, load(folder).min_p, load(folder).repetition_penalty) == (0.1, 0.02, 1.05)
    manifest = read_manifest(folder)
    assert load(folder).feature_space.token_features is None
    assert manifest.version.startswith("default-")
    assert manifest.data["people"] == "simulated"
    assert manifest.metrics["r2_properties"]["breath"] > 0.3
