"""How much one person can change what is published: their evidence is capped, and their removal is tried.

Two bounds, both written into the manifest. Nobody holds more than a given share of all evidence. And the people who
pull hardest on a prototype are taken out one at a time and the prior fitted on without them; if the reward that a
prototype gives to answers changes by more than the bound, the artifact is drawn nearer to its parent, which nobody here
moved. That limits what one person's feedback does; it is not differential privacy. Knows neither stores nor files.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import log_softmax

from router.em import MapPeople, Prior, Run, e_step, run_em
from router.feedback import FeedbackTable
from router.population import FitConfig
from router.types import Array, Population
from serve.errors import ConfigurationError

NUM_SUSPECTS = 4
EM_ITERATIONS = 4
NEGLIGIBLE = 0.05  # of the bound: a first-order pull so small need not be tried out
ROUNDING = 1e-9


def largest_share(table: FeedbackTable) -> float:
    """Return the largest share of all evidence that one person holds, by weight."""
    weights = np.bincount(table.people, table.weights, minlength=table.num_people)
    return float(weights.max() / weights.sum())


def capped(table: FeedbackTable, max_share: float) -> FeedbackTable:
    """Return the table with the weights of those scaled down who hold more than `max_share` of all evidence.

    Raises:
        ConfigurationError: so few people cannot all hold so little.
    """
    weights: Array = np.bincount(table.people, table.weights, minlength=table.num_people).astype(np.float64)
    return replace(table, weights=table.weights * share_scales(weights, max_share)[table.people])


def share_scales(weights: Array, max_share: float) -> Array:
    """Return factors (U,) by which people's `weights` (U,) fall to `max_share` of all that is left; 1 for most.

    Taking from some raises the others' shares. With the m heaviest at the bound b, b = share·(the others + m·b).

    Raises:
        ConfigurationError: so few people cannot all hold so little.
    """
    heaviest = np.sort(weights[weights > 0.0])[::-1]
    if len(heaviest) * max_share < 1.0 - ROUNDING:
        raise ConfigurationError(
            f"{len(heaviest)} people cannot each hold at most {max_share:.1%} of the evidence: that takes "
            f"{int(np.ceil(1.0 / max_share - ROUNDING))} people, or a larger share (--max-share) for each."
        )
    others = np.cumsum(heaviest[::-1])[::-1]  # (m,) all but the m heaviest
    bounds = max_share * others / np.maximum(1.0 - max_share * np.arange(len(heaviest)), ROUNDING)
    bound = bounds[np.argmax(heaviest <= (1.0 + ROUNDING) * bounds)]
    return np.asarray(np.minimum(1.0, bound / np.maximum(weights, bound)))


def largest_move(
    population: Population, table: FeedbackTable, config: FitConfig, map_people: MapPeople, bound: float
) -> float:
    """Return by how much one person's removal changes a prototype's reward of answers: root mean square, in logits.

    Tried for the `NUM_SUSPECTS` who pull most; where no pull matters beside `bound`, the strongest pull is returned.
    """
    people = table.evidence(population)
    start = replace(prior_of(population), odd_share=config.odd_share)  # or who was left out would count as moving
    believed = e_step(people, start, start.means, map_people)
    shares = np.exp(log_softmax(believed.joint, axis=1) + believed.trust)  # (U, K)
    response = _response(population, table)
    pulls = shares / np.maximum(shares.sum(axis=0), 1.0) * _lengths(believed.means - start.means, response)  # (U, K)
    strongest = pulls.max(axis=1)  # (U,)
    if strongest.max() < NEGLIGIBLE * bound:
        return float(strongest.max())
    run = Run(map_people)
    whole, _ = run_em(people, start, EM_ITERATIONS, config.flip_rates, run)
    moves = [float(strongest.max())]
    for suspect in np.argsort(-strongest)[:NUM_SUSPECTS]:
        others = people.of(np.delete(np.arange(len(people)), suspect))
        without, _ = run_em(others, start, EM_ITERATIONS, config.flip_rates, run)
        moves.append(float(_lengths(without.means - whole.means, response).max()))
    return max(moves)


def prior_of(population: Population) -> Prior:
    """Return a population's prior in the form it is fitted in."""
    return Prior(
        log_weights=np.log(population.mixture_weights),
        means=population.prior_means,
        covariances=population.prior_covariances,
        base=np.append(population.base_weights, 0.0),
        flip_rate=population.flip_rate,
    )


def _response(population: Population, table: FeedbackTable) -> Array:
    """Covariance (L, L) of answers' reward features; the threshold enters every thumb alike."""
    response = np.eye(population.num_features + 1)
    response[:-1, :-1] = table.reward_covariance(population)
    return response


def _lengths(moves: Array, response: Array) -> Array:
    """Root mean square change of reward by moves (..., L) of the weights."""
    return np.asarray(np.sqrt(np.maximum(np.einsum("...i,ij,...j->...", moves, response, moves), 0.0)))
