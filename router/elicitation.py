"""Which question to ask: the one whose answer says most about a person's taste, of which of n answers they like best.

BALD (Houlsby et al. 2011): I(y; w) = H(E[p]) − E[H(p)], where y is the answer liked best and w comes from the judge,
the person's reward weights; p = 2ε/n + (1 − 2ε)·softmax(w·φ), for two answers a noisy comparison. The n − 1
differences of scores are a mixture of Gaussians, so quadrature over these few numbers is all it takes. Opening
questions are a batch chosen greedily by joint information (BatchBALD, Kirsch et al. 2019). Knows no texts or people.
"""

import math
from functools import lru_cache

import numpy as np
from scipy.stats import norm, qmc

from router.mixture import Floats, Mixture

# Pairs: the trapezoid rule on ±5.5 standard deviations. |error| < 1e-3 nats up to a standard deviation of 10 logits,
# where 64 Gauss-Hermite nodes err by 8e-3: σ is steep between them, while the trapezoid converges exponentially.
NUM_NODES = 48
REACH = 5.5
NUM_SOBOL_NODES = 256  # more answers than two: error about 1e-2 nats
MAX_ANSWERS = 16
MAX_OPENING = 8
MAX_PATTERNS = 1024  # of answers to all opening questions, which the joint entropy enumerates


def information_gain(judge: Mixture, options: Floats, flip_rate: float = 0.0) -> Floats:
    """Measure what each question would tell about w, (M,) nats, 0 to log n; `options` (M, n, D) are its answers' φ.

    One vectorised call, O(M·n·K·(D² + n·Q)) with Q quadrature nodes (48 for pairs, else 256).
    """
    _check(judge, options, flip_rate)
    M, n, _ = options.shape
    gaps = options[:, 1:] - options[:, :1]  # (M, n - 1, D)
    nodes, node_weights = _quadrature(n - 1)  # (Q, n - 1), (Q,)
    expected, noise = np.zeros((M, n)), np.zeros(M)
    for weight, mean, factor in zip(judge.weights, judge.means, judge.factors, strict=True):
        scores = (gaps @ mean)[:, None, :] + nodes @ _roots(gaps @ factor)  # (M, Q, n - 1)
        p = _answer_probabilities(scores, flip_rate)  # (M, Q, n)
        expected += weight * np.einsum("q,mqn->mn", node_weights, p)
        noise += weight * (_surprise(p).sum(axis=-1) @ node_weights)
    return np.asarray(np.maximum(_surprise(expected).sum(axis=-1) - noise, 0.0))


def most_informative(judge: Mixture, options: Floats, flip_rate: float = 0.0) -> int:
    """Pick the question to ask next, of M (M, n, D); the first among equals."""
    return int(np.argmax(information_gain(judge, options, flip_rate)))


def max_opening(num_answers: int) -> int:
    """Return how many opening questions of so many answers each can be chosen together."""
    return min(MAX_OPENING, int(math.log(MAX_PATTERNS) / math.log(num_answers)))


def opening_questions(
    prior: Mixture,
    options: Floats,
    num_questions: int,
    rng: np.random.Generator,
    *,
    flip_rate: float = 0.0,
    num_samples: int = 2000,
) -> tuple[int, ...]:
    """Choose what to ask everybody new: a set of questions that together say most, of M candidates (M, n, D).

    Greedy, each maximising I(y_1 … y_q; w) with those before it, by exact enumeration of answers over sampled tastes;
    within 1 − 1/e of the best set (submodular) up to sampling error. O(M · num_samples · n^num_questions).
    """
    _check(prior, options, flip_rate)
    limit = min(max_opening(options.shape[1]), len(options))
    if not 1 <= num_questions <= limit:
        raise ValueError(f"num_questions must be in 1..{limit} (no more than can be enumerated, or than there are)")
    components = rng.choice(len(prior.weights), size=num_samples, p=prior.weights)
    noise = rng.standard_normal((num_samples, len(prior.mean)))
    tastes = prior.means[components] + np.einsum("sij,sj->si", prior.factors[components], noise)  # (S, D)
    gaps = options[:, 1:] - options[:, :1]
    p = np.moveaxis(_answer_probabilities(np.moveaxis(gaps @ tastes.T, 1, -1), flip_rate), -1, 0)  # (n, M, S)
    noise_entropy = _surprise(p).sum(axis=0).mean(axis=1)  # (M,) E[H(y | w)], additive over questions
    answered = np.ones((1, num_samples))  # (n^q, S) likelihood of each pattern of answers so far
    chosen: list[int] = []
    for _ in range(num_questions):
        gain = -noise_entropy
        for answer in p:
            gain = gain + _surprise(answered @ answer.T / num_samples).sum(axis=0)  # joint with each pattern
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        answered = np.concatenate([answered * answer[best] for answer in p])
    return tuple(chosen)


@lru_cache
def _quadrature(size: int) -> tuple[Floats, Floats]:
    """Nodes (Q, size) and weights (Q,) for the expectation under a standard normal distribution."""
    if size == 1:
        nodes = np.linspace(-REACH, REACH, NUM_NODES)
        density = np.exp(-0.5 * nodes**2)
        return nodes[:, None], density / density.sum()
    points = norm.ppf(qmc.Sobol(size, scramble=True, seed=0).random(NUM_SOBOL_NODES))
    return points, np.full(NUM_SOBOL_NODES, 1.0 / NUM_SOBOL_NODES)


def _roots(projected: Floats) -> Floats:
    """Turn X (M, s, D) into R (M, s, s) with Rᵀ·R = X·Xᵀ, also where answers are the same."""
    values, vectors = np.linalg.eigh(projected @ projected.transpose(0, 2, 1))
    return np.asarray(np.sqrt(np.maximum(values, 0.0))[:, :, None] * vectors.transpose(0, 2, 1))


def _answer_probabilities(scores: Floats, flip_rate: float) -> Floats:
    """Turn scores (…, n − 1) of the other answers over the first one into probabilities (…, n)."""
    top = np.maximum(scores.max(axis=-1, keepdims=True), 0.0)
    raised = np.exp(np.concatenate([-top, scores - top], axis=-1))
    share = 2.0 * flip_rate  # of labels that say nothing
    return np.asarray(share / raised.shape[-1] + (1.0 - share) * raised / raised.sum(axis=-1, keepdims=True))


def _surprise(p: Floats) -> Floats:
    """−p·log p, 0 at 0."""
    return np.asarray(-p * np.log(np.maximum(p, np.finfo(np.float64).tiny)))


def _check(judge: Mixture, options: Floats, flip_rate: float) -> None:
    D = judge.means.shape[1]
    if options.ndim != 3 or options.shape[2] != D or len(options) == 0 or not 2 <= options.shape[1] <= MAX_ANSWERS:
        raise ValueError(
            f"options must have shape (any, 2..{MAX_ANSWERS}, {D}) with at least one row, but has {options.shape}"
        )
    if not 0.0 <= flip_rate < 0.5:
        raise ValueError(f"flip_rate must be in [0, 0.5), but is {flip_rate}")
