"""Who is no evidence about people in general: a contaminant beside every prototype, in closed form.

With a small probability somebody belongs to no prototype: their taste lies far off (the prototype's own Gaussian, some
times as wide: Tukey's contaminated normal), or their feedback agrees with no reward (every outcome equally likely). The
first follows from the Laplace posterior without another fit; the second from counting. How far people belong to the
prototypes weighs them in the M-step (Campbell 1984; McLachlan & Peel 2000, ch. 7). Knows nothing of fitting.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.special import log_softmax, logit, logsumexp

from router.batches import Modes
from router.feedback import People
from router.laplace import Factor
from router.types import Array

WIDENING = 5.0  # of a covariance
SMALLEST_GROUP = 0.075  # of people: a group of fewer that lies far from all others says nothing about people in general
TRUSTED = 0.75  # mean trust in a group's people from which on it borders on those who trust them
ODD = 0.75  # trust in a person below which they are odd
FEWEST_ODD = 0.05  # of people: fewer move the others less than leaving out honest people who look odd by chance


def log_trust(odd_share: float, prior: Factor, modes: Modes, doubts: Array, log_chance: Array) -> Array:
    """Return the log probability (U, K) that each person belongs to each prototype rather than to its contaminant.

    Args:
        odd_share: Of the people, before anything is known of them, who belong to no prototype.
        prior: The prototypes.
        modes: What was found of the people under them.
        doubts: Their posterior covariances, (U, K, L, L).
        log_chance: Of each person's feedback if every outcome is equally likely, (U,).
    """
    covariances = np.asarray(np.linalg.inv(prior.precision), dtype=np.float64)  # (K, L, L)
    centers = (covariances @ prior.shift[:, :, None])[:, :, 0]
    odds = log_odds_of_none(covariances, modes.means - centers, doubts, modes.log_evidence, log_chance)
    return np.asarray(-np.logaddexp(0.0, odds + logit(odd_share)))


def log_odds_of_none(covariances: Array, off: Array, doubts: Array, log_evidence: Array, log_chance: Array) -> Array:
    """Return the log ratio (U, K) of people's evidence under a prototype's contaminant to that under the prototype.

    Args:
        covariances: Of the prototypes, (K, L, L).
        off: People's posterior means, less the prototypes', (U, K, L).
        doubts: Their posterior covariances, (U, K, L, L).
        log_evidence: Of each person under each prototype, (U, K).
        log_chance: Of each person's feedback if every outcome is equally likely, (U,).
    """
    # E[N(w; m, c·S) / N(w; m, S)] over the posterior N(m + d, V): with a = 1 - 1/c it is
    # c^(-L/2) · |I - a·V·S⁻¹|^(-1/2) · exp(½·a·d·(S - a·V)⁻¹·d).
    a = 1.0 - 1.0 / WIDENING
    within = covariances - a * doubts  # positive definite: a posterior is nowhere wider than its prior
    distance = (off * np.linalg.solve(within, off[..., None])[..., 0]).sum(axis=-1)
    sharpness = np.linalg.slogdet(covariances)[1] - np.linalg.slogdet(within)[1]
    wide = 0.5 * (a * distance + sharpness - covariances.shape[-1] * np.log(WIDENING))
    return np.asarray(np.logaddexp(wide, log_chance[:, None] - log_evidence) - np.log(2.0))


def trust_of_many(joint: Array, trust_in: Array) -> Array:
    """Return the probability (U,) that each person's taste is one that many people have.

    Prototypes that trust each other's people are one taste. A taste of fewer than `SMALLEST_GROUP` of the people is one
    of many only if the others trust its people.

    Args:
        joint: People's log evidence under each prototype and its contaminant, (U, K).
        trust_in: Log probability that they belong to the prototype rather than to its contaminant, (U, K).
    """
    log_shares = log_softmax(joint, axis=1)  # (U, K)
    shares = np.exp(log_shares)
    sizes = shares.sum(axis=0)
    trusted = (np.exp(trust_in).T @ shares) / np.maximum(sizes, 1e-9)  # (K, K) by each, of the people of each
    _, tastes = connected_components((trusted > TRUSTED) & (trusted.T > TRUSTED), directed=False)  # (K,)
    together = np.bincount(tastes, sizes)[tastes]  # (K,)
    is_of_many = together >= min(SMALLEST_GROUP * len(joint), together.max())
    while True:
        among_many = log_softmax(joint[:, is_of_many], axis=1) + trust_in[:, is_of_many]
        is_reached = ~is_of_many & (np.exp(logsumexp(among_many, axis=1)) @ shares > TRUSTED * sizes)
        if not is_reached.any():
            break
        is_of_many |= is_reached
    trust = np.exp(logsumexp(log_shares[:, is_of_many] + trust_in[:, is_of_many], axis=1))
    return np.asarray(trust)


def odd_ones(trust: Array, fewest: float, most: float) -> NDArray[np.bool_]:
    """Mark the people (U,) whom a fit should do without, given `trust_of_many` (U,).

    Nobody where that would be fewer than `fewest` people, or more than `most`: then tastes differ that much.
    """
    is_odd = trust < ODD
    return is_odd & bool(fewest <= is_odd.sum() <= most)


def log_chances(people: People) -> Array:
    """Return the log-likelihood (U,) of each person's feedback if every outcome is equally likely."""
    chances = people.weights * np.log(people.num_outcomes)
    return np.asarray(-np.bincount(people.group_people, chances, len(people)))
