"""How freely a fit may learn what everyone likes, and directions the parent does not have.

Both are weights over hundreds of features: learned with one strength whatever the feedback, they fit the noise of few
people, and the prior in such a basis is certain of it. So strengths are tried on most of the people, and judged by how
well the others are foretold, half of whose answers are told. How noisy labels are is found out in the first trial
alone. Knows neither parents nor artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from router.basis import BasisConfig
from router.em import Run
from router.feedback import FeedbackTable
from router.held_out import choose_tempering, halves
from router.population import FeatureLayout, FitConfig, fit_population, fit_single
from router.types import Array, Population

RIDGES = (100.0, 30.0, 10.0, 3.0, 1.0)  # the strongest first; features have a mean square norm of 1
JUDGES = 0.25  # of the people
MOST_PEOPLE = 1_000  # who are asked; more would tell no more of a strength
EM_ITERATIONS = 4
TEMPERING = 3  # one in so many judges says how far to temper evidence
Losses = Callable[[BasisConfig], Array]  # of each judge, nats an answer


def choose_freedom(
    table: FeedbackTable, layout: FeatureLayout, config: FitConfig, rank: int, run: Run, seed: int
) -> BasisConfig:
    """Return ridges, and `rank` directions or none: each step to more freedom must gain more than a standard error."""
    people = np.random.default_rng(seed).permutation(table.num_people)[:MOST_PEOPLE]
    num_judges = max(1, round(JUDGES * len(people)))
    judges = table.subset(np.sort(people[:num_judges])).compact()
    learners = table.subset(np.sort(people[num_judges:])).compact()
    trial = replace(config, num_prototypes=(1,), em_iterations=EM_ITERATIONS, odd_share=0.0)
    best = BasisConfig(rank=0, base_ridge=RIDGES[0])
    first, _ = fit_population(learners, layout, replace(trial, basis=best), seed, run)

    def losses(basis: BasisConfig) -> Array:
        return _losses(
            fit_single(learners, layout, replace(trial, basis=basis), seed, first.flip_rate, run),
            judges,
            config.temperings,
        )

    reached = losses(best)
    best, reached = _freest(best, reached, [replace(best, base_ridge=ridge) for ridge in RIDGES[1:]], losses)
    if rank:
        free = [replace(best, rank=rank, basis_ridge=ridge) for ridge in RIDGES]
        best, _ = _freest(best, reached, free, losses)
    return best


def _losses(population: Population, judges: FeedbackTable, temperings: Sequence[float]) -> Array:
    told = [person for person in judges.evidence(population) if person.num_groups > 1]
    tempering = choose_tempering(population, told[::TEMPERING], temperings)
    tempered = replace(population, tempering=tempering)
    return np.array([halves(tempered, person)[1].mean() for person in told])


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
