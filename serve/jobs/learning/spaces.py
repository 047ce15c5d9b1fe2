"""Make a feature space of a model from a corpus of its own answers.

Features are principal components of the pooled states' differences between answers to the same prompt, each with unit
variance: what answers are about is the prompt's doing, how they are written is what people choose by. The directions
are C = Cov(state at the steered layer, features) within prompts: a tilted answer is still an answer to its prompt, and
the covariance over everything would push towards other topics. Knows nothing of people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from serve.engines.feature_space import FeatureSpace
from serve.engines.worker_messages import Projection
from serve.errors import ConfigurationError
from serve.jobs.learning.corpus import Corpus
from serve.jobs.learning.text import Array

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SpaceConfig:
    """How a feature space is made. Layers above the steered one would show the vector itself, so none is read."""

    pooled_layers: tuple[int, ...] = (0, 10, 14, 21)
    steered_layer: int = 21
    num_features: int = 320
    max_dose: float = 0.3
    topic_share: float = 0.1  # of the variance between prompts' means that counts; 1 is plain principal components


def make_space(corpus: Corpus, rows: Index, config: SpaceConfig) -> FeatureSpace:
    """Make the space from some of a corpus' answers, `rows`.

    Raises:
        ValueError: a layer above the steered one is read.
        ConfigurationError: the corpus lacks a layer, or has fewer answers than features.
    """
    if max(config.pooled_layers) > config.steered_layer:
        raise ValueError(f"Layers {config.pooled_layers} are read above the steered layer {config.steered_layer}.")
    x = stack_layers(corpus, config.pooled_layers)[rows]  # (n, L·H)
    if len(x) <= config.num_features:
        raise ConfigurationError(f"{len(x)} answers are too few for {config.num_features} features.")
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    z = (x - mean) / scale
    prompts = corpus.prompt_numbers()[rows]
    topics = prompt_means(z, prompts)  # (n, L·H)
    weighed = z - (1.0 - np.sqrt(config.topic_share)) * topics
    weighed -= weighed.mean(axis=0)
    last = weighed.shape[1] - 1
    _, columns = eigh(weighed.T @ weighed, subset_by_index=(last - config.num_features + 1, last))
    axes = columns.T[::-1]  # (P, L·H), largest variance first
    basis = axes / (z @ axes.T).std(axis=0)[:, None]
    states = within_prompts(stack_layers(corpus, (config.steered_layer,))[rows], prompts)  # (n, H)
    directions = states.T @ within_prompts(z @ basis.T, prompts) / len(rows)  # (H, P)
    return FeatureSpace(
        model=corpus.recipe["model"],
        pooled_layers=config.pooled_layers,
        steered_layer=config.steered_layer,
        projection=Projection(*(np.asarray(array, np.float32) for array in (basis, mean, scale))),
        directions=np.asarray(directions, np.float32),
        max_dose=config.max_dose,
    )


def stack_layers(corpus: Corpus, layers: tuple[int, ...]) -> Array:
    """Put the states of some layers end to end, (n, L·H).

    Raises:
        ConfigurationError: the corpus was not made with one of them.
    """
    missing = sorted(set(layers) - set(corpus.layers))
    if missing:
        raise ConfigurationError(f"The corpus holds layers {corpus.layers}, not {missing}; generate it with --layers.")
    chosen = [corpus.layers.index(layer) for layer in layers]
    return np.asarray(corpus.states[:, chosen].reshape(len(corpus.states), -1), np.float64)


def project(corpus: Corpus, space: FeatureSpace) -> Array:
    """Return the features of every answer, (n, P)."""
    projection = space.projection
    return np.asarray(
        (stack_layers(corpus, space.pooled_layers) - projection.mean) / projection.scale @ projection.basis.T
    )


def numbered(prompts: Index) -> Index:
    """Renumber prompts from 0 without gaps."""
    return np.asarray(np.unique(prompts, return_inverse=True)[1], np.int64)


def prompt_means(values: Array, prompts: Index) -> Array:
    """Return each row's mean over its prompt, (n, A)."""
    numbers = numbered(prompts)
    sums = np.zeros((numbers.max() + 1, values.shape[1]))
    np.add.at(sums, numbers, values)
    return np.asarray((sums / np.bincount(numbers)[:, None])[numbers])


def within_prompts(values: Array, prompts: Index) -> Array:
    """Return rows less their prompt's mean, (n, A)."""
    return values - prompt_means(values, prompts)


def probe(features: Array, values: Array, ridge: float) -> Array:
    """Fit linear probes of values (n, A) on features (n, P), both centred: (A, P)."""
    gram = features.T @ features + ridge * np.eye(features.shape[1])
    return np.asarray(np.linalg.solve(gram, features.T @ values).T)


def explained(values: Array, predicted: Array) -> Array:
    """Return R² of each column, (A,); what never varies counts 0."""
    total = (values**2).sum(axis=0)
    return np.asarray(
        np.where(total > 0, 1.0 - ((values - predicted) ** 2).sum(axis=0) / np.maximum(total, 1e-12), 0.0)
    )
