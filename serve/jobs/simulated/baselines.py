"""What others would do with the same feedback: a sentence about the person's taste, and a reranker over embeddings.

Both see exactly the comparisons the person made. Neither knows Palate's features or the person's hidden weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from serve.jobs.learning.text import Array
from serve.jobs.simulated.people import Meter

Embed = Callable[[Sequence[str]], Array]
# What each property is called in a sentence about somebody's taste.
PHRASES = {
    "you": "direct address with 'you'",
    "we_and_i": "first-person 'I' and 'we'",
    "short_forms": 'contractions such as "it\'s"',
    "names": "proper names",
    "numbers": "numbers and figures",
    "breath": "long sentences",
    "exclaiming": "exclamation marks",
    "quoting": "quotations",
    "announcing": "colons that announce what follows",
    "asides": "asides in brackets",
    "being": "the verb 'to be'",
    "articles": "articles such as 'the' and 'a'",
    "prepositions": "prepositional phrases",
    "commas": "commas",
    "third_person": "the third person",
    "past_tense": "the past tense",
    "short_lines": "short lines",
}
MAX_PHRASES = 3
PRIOR_VARIANCES = (0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a person preferred to what."""

    prompt: str
    chosen: str
    rejected: str


def profile_sentence(choices: Sequence[Choice], meter: Meter) -> str:
    """Describe the taste that choices show: what the chosen texts have more and less of, by the true properties' names.

    This gives the baseline what no real system has, the very properties people care about.
    """
    difference = meter([one.chosen for one in choices]) - meter([one.rejected for one in choices])
    mean = difference.mean(axis=0)  # (A,)
    strongest = np.argsort(-np.abs(mean))[:MAX_PHRASES]
    more = [PHRASES.get(meter.family[i].name, meter.family[i].name) for i in strongest if mean[i] > 0]
    less = [PHRASES.get(meter.family[i].name, meter.family[i].name) for i in strongest if mean[i] < 0]
    wishes = [f"likes {' and '.join(more)}"] if more else []
    wishes += [f"dislikes {' and '.join(less)}"] if less else []
    return f"The user {' and '.join(wishes)}. Write your answer accordingly."


def embedding_weights(chosen: Array, rejected: Array, variance: float) -> Array:
    """Fit one person's linear reward over embeddings (k, E) by Bayesian logistic regression's mode: (E,)."""
    differences = chosen - rejected

    def loss(weights: Array) -> tuple[float, Array]:
        scores = differences @ weights
        value = np.logaddexp(0.0, -scores).sum() + 0.5 * float(weights @ weights) / variance
        return float(value), -differences.T @ expit(-scores) + weights / variance

    return np.asarray(minimize(loss, np.zeros(differences.shape[1]), jac=True, method="L-BFGS-B").x)


def pick(candidates: Array, weights: Array) -> int:
    """Pick the best of candidates (N, E)."""
    return int(np.argmax(candidates @ weights))
