"""Feature spaces made from a corpus."""

from __future__ import annotations

import numpy as np
import pytest

from serve.errors import ConfigurationError
from serve.jobs.learning.spaces import (
    SpaceConfig,
    explained,
    make_space,
    probe,
    project,
    prompt_means,
    stack_layers,
    within_prompts,
)
from tests.serve.jobs.learning.cases import H, make_corpus

CONFIG = SpaceConfig((10, 14), 14, 6)


def test_features_have_unit_variance_and_directions_are_covariances_within_prompts() -> None:
    corpus = make_corpus()
    rows = np.arange(len(corpus.samples))
    space = make_space(corpus, rows, CONFIG)
    features = project(corpus, space)
    np.testing.assert_allclose(features.std(axis=0), 1.0, rtol=1e-3)
    prompts = corpus.prompt_numbers()
    states = within_prompts(stack_layers(corpus, (14,)), prompts)
    expected = np.cov(states.T, within_prompts(features, prompts).T, bias=True)[:H, H:]
    np.testing.assert_allclose(space.directions, expected, atol=1e-3)


def test_features_read_what_states_carry() -> None:
    corpus = make_corpus()
    rows = np.arange(len(corpus.samples))
    prompts = corpus.prompt_numbers()
    features = within_prompts(project(corpus, make_space(corpus, rows, CONFIG)), prompts)
    length = within_prompts(np.array([[len(sample.text.split())] for sample in corpus.samples], np.float64), prompts)
    train, test = prompts < 18, prompts >= 18
    found = explained(length[test], features[test] @ probe(features[train], length[train], 1.0).T)
    assert found[0] > 0.8


def test_topics_count_less_than_style() -> None:
    corpus = make_corpus()
    rows, prompts = np.arange(len(corpus.samples)), corpus.prompt_numbers()

    def share_within(topic_share: float) -> float:
        config = SpaceConfig((10, 14), 14, 3, topic_share=topic_share)
        features = project(corpus, make_space(corpus, rows, config))
        return float(within_prompts(features, prompts).var() / features.var())

    assert share_within(0.0) > share_within(1.0)


def test_prompt_means() -> None:
    values = np.array([[1.0], [3.0], [10.0]])
    np.testing.assert_array_equal(prompt_means(values, np.array([4, 4, 9])), [[2.0], [2.0], [10.0]])


def test_what_cannot_be_made_is_said() -> None:
    corpus = make_corpus(num_prompts=8, samples=2)
    with pytest.raises(ConfigurationError, match="too few"):
        make_space(corpus, np.arange(5), CONFIG)
    with pytest.raises(ConfigurationError, match="21"):
        make_space(corpus, np.arange(16), SpaceConfig(pooled_layers=(14, 21), num_features=4))
