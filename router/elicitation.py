"""Which question to ask: the comparison whose answer says most about a person's taste.

BALD for a Bernoulli answer (Houlsby et al. 2011): I(y; w) = H(E[p]) − E[H(p)], p = ε + (1 − 2ε)·σ(w·δ), with w from the
judge, the person's reward weights. w·δ is a mixture of scalar Gaussians, so one-dimensional quadrature is all it takes.
Opening questions are a batch chosen greedily by joint information (BatchBALD, Kirsch et al. 2019). Knows differences of
features, not texts or people.
"""

import numpy as np

from router.mixture import Floats, Mixture

# The trapezoid rule on ±5.5 standard deviations: |error| < 1e-3 nats up to a standard deviation of 10 logits, where 64
# Gauss-Hermite nodes err by 8e-3, because σ is steep between them while the trapezoid converges exponentially.
NUM_NODES = 48
REACH = 5.5
MAX_OPENING = 8  # the joint entropy enumerates 2^n answers


def information_gain(judge: Mixture, differences: Floats, flip_rate: float = 0.0) -> Floats:
    """Measure what each comparison would tell about w, (M,) nats, 0 to log 2; `differences` (M, D) is φ_a − φ_b.

    One vectorised call, O(M·K·(D² + 48)).
    """
    _check(judge, differences, flip_rate)
    nodes = np.linspace(-REACH, REACH, NUM_NODES)
    means, variances = judge.project(differences)  # (K, M)
    p = _answer_probability(means[:, :, None] + np.sqrt(variances)[:, :, None] * nodes, flip_rate)  # (K, M, Q)
    density = np.exp(-0.5 * nodes**2)
    node_weights = density / density.sum()
    expected = judge.weights @ (p @ node_weights)  # (M,)
    noise = judge.weights @ (_entropy(p) @ node_weights)
    return np.asarray(np.maximum(_entropy(expected) - noise, 0.0))


def most_informative(judge: Mixture, differences: Floats, flip_rate: float = 0.0) -> int:
    """Pick the comparison to ask next, of M (M, D); the first among equals."""
    return int(np.argmax(information_gain(judge, differences, flip_rate)))


def opening_questions(
    prior: Mixture,
    differences: Floats,
    num_questions: int,
    rng: np.random.Generator,
    *,
    flip_rate: float = 0.0,
    num_samples: int = 2000,
) -> tuple[int, ...]:
    """Choose what to ask everybody new: a set of comparisons that together say most, of M candidates (M, D).

    Greedy, each maximising I(y_1 … y_n; w) with those before it, by exact enumeration of answers over sampled tastes;
    within 1 − 1/e of the best set (submodular) up to sampling error. O(M · num_samples · 2^num_questions).
    """
    _check(prior, differences, flip_rate)
    if not 1 <= num_questions <= min(MAX_OPENING, len(differences)):
        limit = min(MAX_OPENING, len(differences))
        raise ValueError(f"num_questions must be in 1..{limit} (no more than {MAX_OPENING} or than there are pairs)")
    components = rng.choice(len(prior.weights), size=num_samples, p=prior.weights)
    noise = rng.standard_normal((num_samples, len(prior.mean)))
    tastes = prior.means[components] + np.einsum("sij,sj->si", prior.factors[components], noise)  # (S, D)
    p = _answer_probability(differences @ tastes.T, flip_rate)  # (M, S)
    noise_entropy = _entropy(p).mean(axis=1)  # (M,) E[H(y | w)], additive over questions
    answered = np.ones((1, num_samples))  # (2^n, S) likelihood of each pattern of answers so far
    chosen: list[int] = []
    for _ in range(num_questions):
        yes = answered @ p.T / num_samples  # (2^n, M) joint probability of the pattern and "yes"
        no = answered.mean(axis=1)[:, None] - yes
        gain = _surprise(yes).sum(axis=0) + _surprise(no).sum(axis=0) - noise_entropy
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        answered = np.concatenate([answered * p[best], answered * (1.0 - p[best])])
    return tuple(chosen)


def _answer_probability(logits: Floats, flip_rate: float) -> Floats:
    return np.asarray(flip_rate + (1.0 - 2.0 * flip_rate) * 0.5 * (1.0 + np.tanh(0.5 * logits)))


def _entropy(p: Floats) -> Floats:
    return _surprise(p) + _surprise(1.0 - p)


def _surprise(p: Floats) -> Floats:
    """−p·log p, 0 at 0."""
    return np.asarray(-p * np.log(np.maximum(p, np.finfo(np.float64).tiny)))


def _check(judge: Mixture, differences: Floats, flip_rate: float) -> None:
    D = judge.means.shape[1]
    if differences.ndim != 2 or differences.shape[1] != D or len(differences) == 0:
        raise ValueError(f"differences must have shape (any, {D}) with at least one row, but has {differences.shape}")
    if not 0.0 <= flip_rate < 0.5:
        raise ValueError(f"flip_rate must be in [0, 0.5), but is {flip_rate}")
