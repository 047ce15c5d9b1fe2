"""People who mean harm, in a fit on everybody: what their feedback costs honest people nobody has seen."""

import numpy as np
import pytest

from router.basis import BasisConfig
from router.population import FitConfig, fit_population, plain_layout
from router.posterior import choice_probability, condition, prior
from router.types import Array, Population
from tests.router.simulated import Crowd, simulate

PROTOTYPES = np.array([[2.0, 0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.0, 0.0, 0.0]])
NUM_HONEST, NUM_HOSTILE, NUM_EACH = 380, 20, 20  # every twentieth is hostile
SPREAD, FLIP_RATE = 0.4, 0.05
CONFIG = FitConfig(
    basis=BasisConfig(rank=3), num_prototypes=(1, 2, 4), em_iterations=6, flip_rates=(0.0, 0.05, 0.1), temperings=(1.0,)
)
ATTACKS = ("the opposite of somebody honest", "one direction together", "the opposite of everybody together")


def attack(name: str, rng: np.random.Generator) -> Array:
    """Tastes that hostile people pretend to, (NUM_HOSTILE, P); ten times as strong as anybody's, so never in doubt."""
    if name == "the opposite of somebody honest":
        return -10.0 * PROTOTYPES[rng.integers(2, size=NUM_HOSTILE)]
    if name == "one direction together":
        return np.tile(10.0 * np.eye(6)[3], (NUM_HOSTILE, 1))
    return np.tile(-10.0 * PROTOTYPES.sum(axis=0), (NUM_HOSTILE, 1))


def joined(honest: Crowd, tastes: Array, seed: int) -> Crowd:
    """Add people of these tastes who never err."""
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(len(tastes)), NUM_EACH)
    features = rng.normal(size=(2, len(people), tastes.shape[1]))
    prefers = ((features[0] - features[1]) * tastes[people]).sum(axis=1) > 0
    first = len(honest.features) + np.arange(len(people))
    second = first + len(people)
    return Crowd(
        np.vstack([honest.features, *features]),
        np.vstack([honest.tastes, tastes]),
        np.r_[honest.prototypes, np.full(len(tastes), -1)],
        np.r_[honest.people, len(honest.tastes) + people],
        np.r_[honest.plus, np.where(prefers, first, second)],
        np.r_[honest.minus, np.where(prefers, second, first)],
    )


def fitted(crowd: Crowd) -> Population:
    return fit_population(crowd.table(), plain_layout(crowd.features), CONFIG, seed=0)[0]


def held_out_accuracy(population: Population, num_labels: int, seed: int) -> float:
    """Expected accuracy on fresh pairs of 80 honest people outside the fit, each with so many labels."""
    crowd = simulate(PROTOTYPES, (40, 40), num_labels, spread=SPREAD, flip_rate=FLIP_RATE, seed=100 + seed)
    rng, shares = np.random.default_rng(5), []
    for taste, evidence in zip(crowd.tastes, crowd.table().evidence(population), strict=True):
        belief = condition(population, prior(population), evidence, evidence.num_groups)
        differences = np.sqrt(2.0) * rng.normal(size=(200, taste.size))
        p = choice_probability(population, belief, (differences / population.scale) @ population.basis.T)
        truth = 1 / (1 + np.exp(-differences @ taste))
        shares.append(np.where(p > 0.5, truth, 1 - truth).mean())
    return float(np.mean(shares))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_twentieth_being_hostile_costs_the_others_less_than_a_point(seed: int) -> None:
    """With as many labels as people in the fit have; what fewer labels and fewer people cost is in docs/log.md."""
    sizes = (NUM_HONEST // 2, NUM_HONEST // 2)
    honest = simulate(PROTOTYPES, sizes, NUM_EACH, spread=SPREAD, flip_rate=FLIP_RATE, seed=seed)
    clean = fitted(honest)
    before = {num_labels: held_out_accuracy(clean, num_labels, seed) for num_labels in (3, NUM_EACH)}
    assert before[NUM_EACH] > 0.78  # there is something to lose: a coin has .5
    for name in ATTACKS:
        tastes = attack(name, np.random.default_rng(50 + seed))
        poisoned = fitted(joined(honest, tastes, seed))
        moved = {labels: held_out_accuracy(poisoned, labels, seed) - was for labels, was in before.items()}
        print(f"seed {seed}, {name}: {before} moved by {moved}, K = {poisoned.num_prototypes}", flush=True)
        assert abs(moved[NUM_EACH]) < 0.01, name


def test_feedback_of_hostile_people_is_in_the_fit() -> None:
    """The attack is real: their tastes are found in what they said."""
    honest = simulate(PROTOTYPES, (10, 10), NUM_EACH, spread=SPREAD, flip_rate=FLIP_RATE, seed=0)
    for name in ATTACKS:
        tastes = attack(name, np.random.default_rng(0))
        crowd = joined(honest, tastes, 0)
        differences = crowd.features[crowd.plus] - crowd.features[crowd.minus]
        for person in range(20, 20 + NUM_HOSTILE):
            shown = differences[crowd.people == person]
            assert len(shown) == NUM_EACH
            assert (shown @ tastes[person - 20] > 0).all()
        assert crowd.table().num_people == 20 + NUM_HOSTILE
