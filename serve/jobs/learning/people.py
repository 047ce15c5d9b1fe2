"""Simulated people of the population: hidden weights over measured properties, noisy comparisons and thumbs.

They stand in for everyone's feedback when a default artifact is made. Each judges answers to the same prompt, with
logistic noise and a share of labels the wrong way round. Knows nothing of models: answers are rows of a corpus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from router.feedback import FeedbackTable, binary_table
from serve.jobs.learning.text import Array

Index = NDArray[np.int64]


@dataclass(frozen=True)
class PeopleConfig:
    """Who they are and how they judge."""

    num_people: int = 2000
    num_events: int = 40  # of each
    salience_of_named: float = 0.5  # how much people care about a named attribute, against the other properties
    thumb_share: float = 0.25  # of events; the others are comparisons
    dense_share: float = 0.3  # of people care about everything a little; the others about two to four things
    sharpness: float = 2.5  # logits per standard deviation of a person's own utility
    flip_rate: float = 0.05


def draw_tastes(num_people: int, salience: Array, dense_share: float, rng: np.random.Generator) -> Array:
    """Draw weights (U, A), each of length 1: sparse ones with random signs, or dense ones, times `salience` (A,)."""
    num_properties = len(salience)
    weights = np.zeros((num_people, num_properties))
    for row in weights:
        if rng.random() < dense_share:
            row[:] = rng.standard_normal(num_properties)
        else:
            cared = rng.choice(num_properties, size=int(rng.integers(2, 5)), replace=False)
            row[cared] = rng.choice([-1.0, 1.0], size=len(cared)) * rng.uniform(0.5, 1.5, size=len(cared))
    weights *= salience
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True))


def utilities(values: Array, weights: Array) -> Array:
    """Return everyone's utility of every answer, (U, n), in deviations of the person's own over the answers.

    `values` (n, A) are standardised properties, `weights` (U, A).
    """
    raw = weights @ values.T
    spread = raw.std(axis=1, keepdims=True)
    return np.asarray((raw - raw.mean(axis=1, keepdims=True)) / np.where(spread > 1e-9, spread, 1.0))


def judge(
    features: Array, prompts: Index, liking: Array, config: PeopleConfig, rng: np.random.Generator
) -> FeedbackTable:
    """Let everyone judge answers (n,) with `features` (n, P) to `prompts` (n,), by their `liking` (U, n).

    The table's items are the answers and then the mean answer of each prompt, which thumbs are judged against.
    """
    n, num_prompts = len(features), int(prompts.max()) + 1
    answers_of = [np.flatnonzero(prompts == prompt) for prompt in range(num_prompts)]
    means = np.array([features[rows].mean(axis=0) for rows in answers_of])
    rows: list[tuple[int, int, int, float]] = []  # person, plus, minus, threshold
    for person in range(len(liking)):
        bar = 0.3 * rng.standard_normal()
        asked = rng.choice(num_prompts, size=config.num_events, replace=config.num_events > num_prompts)
        for prompt in asked:
            first, second = rng.choice(answers_of[prompt], size=2, replace=False)
            is_flipped = rng.random() < config.flip_rate
            if rng.random() < config.thumb_share:
                gain = liking[person, first] - liking[person, answers_of[prompt]].mean() - bar
                is_up = (rng.random() < expit(config.sharpness * gain)) != is_flipped
                pair = (first, n + prompt) if is_up else (n + prompt, first)
                rows.append((person, *pair, -1.0 if is_up else 1.0))
            else:
                gain = liking[person, first] - liking[person, second]
                is_first = (rng.random() < expit(config.sharpness * gain)) != is_flipped
                pair = (first, second) if is_first else (second, first)
                rows.append((person, *pair, 0.0))
    table = np.array(rows)
    people, plus, minus = (table[:, i].astype(np.int64) for i in range(3))
    return binary_table(np.vstack([features, means]), people, plus, minus, table[:, 3])
