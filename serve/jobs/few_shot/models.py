"""What every model of the comparison is, and the simple ones: pooled, per-user regression from scratch, and neighbours.

A model is fitted on the training people once and then predicts any person's questions from any shots.
Knows nothing of files, splits into shots, or metrics.
"""

from typing import Protocol

import numpy as np
from scipy.special import expit

from router.basis import fit_base
from router.feedback import FeedbackTable, binary_table
from router.laplace import fit_mode, gaussian
from router.likelihood import log_likelihood
from router.types import Array, Evidence
from serve.jobs.few_shot.data import Index
from serve.jobs.few_shot.features import Inputs
from serve.jobs.few_shot.protocol import Rows
from serve.jobs.few_shot.unseen import foretell


class Model(Protocol):
    """A fitted model."""

    def predict(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Return the probability (M,) of each question's first answer, given the person's shots."""
        ...


def differences(values: Array, rows: Rows) -> Array:
    """Return values of the first item less the second's, (M, ...); -1 names the reference, the last of the values."""
    return np.asarray(values[rows[:, 0]] - values[rows[:, 1]])


def as_evidence(phi: Array, offsets: Array, rows: Rows) -> Evidence:
    """Return rows as one person's evidence over reward features (N, D) and shared rewards (N,) of what rows name."""
    M = len(rows)
    return Evidence(
        designs=np.column_stack([differences(phi, rows), rows[:, 2]]),
        offsets=differences(offsets, rows),
        groups=np.arange(M),
        lows=np.zeros(M),
        highs=np.full(M, np.inf),
        weights=np.ones(M),
        num_outcomes=np.full(M, 2.0),
        times_s=np.zeros(M),
        event_ids=("",) * M,
        targets=("",) * M,
    )


def as_table(inputs: Inputs, rows: Rows, people: Index) -> FeedbackTable:
    """Return training rows as a table; the reference is the last item."""
    items = rows[:, :2] % len(inputs.features)
    return binary_table(inputs.features, people, items[:, 0], items[:, 1], rows[:, 2].astype(np.float64))


class Pooled:
    """Bradley-Terry (and one threshold) shared by everyone, conditioned on the context and on the seen item."""

    def __init__(self, inputs: Inputs, rows: Rows, people: Index) -> None:
        base, self.threshold = fit_base(as_table(inputs, rows, people), inputs.base, ridge=1.0)
        self.rewards = foretell(inputs, rows, (inputs.base @ base)[:, None])[:, 0]  # (n + 1,)

    def scores(self, rows: Rows) -> Array:
        """Return log-odds of each row, (M,)."""
        return differences(self.rewards, rows) + rows[:, 2] * self.threshold

    def predict(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Return the shared opinion, whatever the shots."""
        return np.asarray(expit(self.scores(questions)))


class Scratch:
    """A logistic regression of one person's shots on text features, with a unit Gaussian prior, and nothing shared."""

    def __init__(self, inputs: Inputs) -> None:
        self.text = inputs.text * np.sqrt(inputs.text.shape[1]) / 3.0
        L = self.text.shape[1] + 1
        self.factor = gaussian(np.zeros((1, L)), np.eye(L)[None])
        self.nothing = np.zeros(len(self.text))

    def predict(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Return the regression's probability at its mode."""
        evidence = as_evidence(self.text, self.nothing, shots)
        mode = fit_mode(evidence, evidence.weights, 0.0, self.factor, np.zeros((1, self.text.shape[1] + 1)))
        asked = as_evidence(self.text, self.nothing, questions)
        return np.asarray(np.exp(log_likelihood(asked, mode.means, 0.0))[0])
