"""How freely a fit may learn what everyone likes, and directions the parent does not have.

Both are weights over hundreds of features: learned with one strength whatever the feedback, they fit the noise of few
people, and the prior in such a basis is certain of it. So strengths are tried on most of the people, and judged by how
well the others are foretold, half of whose answers are told. Knows neither parents nor artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from router.basis import BasisConfig
from router.em import Run
from router.feedback import FeedbackTable
from router.held_out import halves
from router.population import FeatureLayout, FitConfig, fit_population
from router.types import Array

RIDGES = (100.0, 30.0, 10.0, 3.0, 1.0)  # the strongest first; features have a mean square norm of 1
JUDGES = 0.25  # of the people
MOST_PEOPLE = 1_000  # who are asked; more would tell no more of a strength
EM_ITERATIONS = 4
Losses = Callable[[BasisConfig], Array]  # of each judge, nats an answer


def choose_freedom(
    table: FeedbackTable, layout: FeatureLayout, config: FitConfig, rank: int, run: Run, seed: int
) -> BasisConfig:
    """Return ridges, and `rank` directions or none: each step to more freedom must gain more than a standard error."""
    people = np.random.default_rng(seed).permutation(table.num_people)[:MOST_PEOPLE]
    num_judges = max(1, round(JUDGES * len(people)))
    judges, learners = (table.subset(np.sort(some)).compact() for some in np.split(people, [num_judges]))
    trial = replace(config, num_prototypes=(1,), em_iterations=EM_ITERATIONS, odd_share=0.0)

    def losses(basis: BasisConfig) -> Array:
        population, _ = fit_population(learners, layout, replace(trial, basis=basis), seed, run)
        told = [person for person in judges.evidence(population) if person.num_groups > 1]
        return np.array([halves(population, person)[1].losses.mean() for person in told])

    best = BasisConfig(rank=0, base_ridge=RIDGES[0])
    reached = losses(best)
    best, reached = _freest(best, reached, [replace(best, base_ridge=ridge) for ridge in RIDGES[1:]], losses)
    if rank:
        free = [replace(best, rank=rank, basis_ridge=ridge) for ridge in RIDGES]
        best, _ = _freest(best, reached, free, losses)
    return best


def _freest(
    best: BasisConfig, reached: Array, candidates: Sequence[BasisConfig], losses: Losses
) -> tuple[BasisConfig, Array]:
    """Go on to more freedom until two steps on end gain nothing."""
    num_vain = 0
    for candidate in candidates:
        found = losses(candidate)
        gain = reached - found
        if len(gain) > 1 and gain.mean() > gain.std() / np.sqrt(len(gain)):
            best, reached, num_vain = candidate, found, 0
        else:
            num_vain += 1
            if num_vain == 2:
                break
    return best, reached
