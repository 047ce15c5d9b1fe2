"""People who mean harm, in a fit on everybody: what their feedback costs honest people nobody has seen."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from router.basis import BasisConfig
from router.population import FitConfig, FitReport, fit_population, plain_layout
from router.posterior import choice_probability, condition, prior
from router.types import Array, Population
from tests.router.simulated import Crowd, simulate

PROTOTYPES = np.array([[2.0, 0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.0, 0.0, 0.0]])
NUM_EACH = 20
SPREAD, FLIP_RATE = 0.4, 0.05
MANY, FEW = (380, 20), (190, 10)  # honest and hostile: every twentieth
CONFIG = FitConfig(
    basis=BasisConfig(rank=3),
    num_prototypes=(1, 2, 4),
    em_iterations=6,
    flip_rates=(0.0, 0.05, 0.1),
    temperings=(1.0,),
    odd_share=0.1,
)


@dataclass(frozen=True, eq=False)
class Attack:
    """What hostile people pretend to like."""

    tastes: Array  # (H, P)
    flip_rate: float | None = None  # None: they never err, however little they care
    are_copies: bool = False  # all say the very same


def attack(name: str, num_hostile: int, seed: int) -> Attack:
    """Make an attack by so many people."""
    rng = np.random.default_rng(50 + seed)
    victims = PROTOTYPES[rng.integers(2, size=num_hostile)]
    opposite = np.tile(-PROTOTYPES.sum(axis=0), (num_hostile, 1))
    attribute = np.tile(np.eye(6)[3], (num_hostile, 1))
    return {
        "the opposite of somebody honest": Attack(-10.0 * victims),
        "the same, with ordinary strength and errors": Attack(
            SPREAD * rng.normal(size=victims.shape) - victims, flip_rate=FLIP_RATE
        ),
        "one attribute together": Attack(10.0 * attribute),
        "the same attribute, with ordinary strength and errors": Attack(2.0 * attribute, flip_rate=FLIP_RATE),
        "the opposite of everybody together": Attack(10.0 * opposite),
        "copies of one who says the opposite": Attack(10.0 * opposite, are_copies=True),
        "coins": Attack(np.zeros_like(victims), flip_rate=0.0),
    }[name]


ATTACKS = (
    "the opposite of somebody honest",
    "the same, with ordinary strength and errors",
    "one attribute together",
    "the same attribute, with ordinary strength and errors",
    "the opposite of everybody together",
    "copies of one who says the opposite",
    "coins",
)


def joined(honest: Crowd, hostile: Attack, seed: int) -> Crowd:
    """Add the hostile people and their comparisons, as many as everybody's."""
    rng, num_hostile = np.random.default_rng(50 + seed), len(hostile.tastes)
    people = np.repeat(np.arange(num_hostile), NUM_EACH)
    features = rng.normal(size=(2, len(people), hostile.tastes.shape[1]))
    if hostile.are_copies:
        features = np.tile(features[:, :NUM_EACH], (1, num_hostile, 1))
    scores = ((features[0] - features[1]) * hostile.tastes[people]).sum(axis=1)
    prefers = scores > 0
    if hostile.flip_rate is not None:
        prefers = rng.random(len(people)) < 1 / (1 + np.exp(-scores))
        prefers ^= rng.random(len(people)) < hostile.flip_rate
    first = len(honest.features) + np.arange(len(people))
    second = first + len(people)
    return Crowd(
        np.vstack([honest.features, *features]),
        np.vstack([honest.tastes, hostile.tastes]),
        np.r_[honest.prototypes, np.full(num_hostile, -1)],
        np.r_[honest.people, len(honest.tastes) + people],
        np.r_[honest.plus, np.where(prefers, first, second)],
        np.r_[honest.minus, np.where(prefers, second, first)],
    )


def honest_crowd(num: int, seed: int) -> Crowd:
    """Half of each prototype."""
    return simulate(PROTOTYPES, (num // 2, num - num // 2), NUM_EACH, spread=SPREAD, flip_rate=FLIP_RATE, seed=seed)


def fitted(crowd: Crowd, config: FitConfig = CONFIG) -> tuple[Population, FitReport]:
    return fit_population(crowd.table(), plain_layout(crowd.features), config, 0)


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


def moves(
    num: tuple[int, int], config: FitConfig, seed: int, attacks: tuple[str, ...] = ATTACKS
) -> dict[tuple[str, int], float]:
    """Points of accuracy by which each attack moves honest people with 3 and with `NUM_EACH` labels."""
    honest = honest_crowd(num[0], seed)
    clean, _ = fitted(honest, config)
    before = {num_labels: held_out_accuracy(clean, num_labels, seed) for num_labels in (3, NUM_EACH)}
    assert before[NUM_EACH] > 0.78  # there is something to lose: a coin has .5
    found = {}
    for name in attacks:
        poisoned, report = fitted(joined(honest, attack(name, num[1], seed), seed), config)
        for num_labels, was in before.items():
            found[name, num_labels] = 100.0 * (held_out_accuracy(poisoned, num_labels, seed) - was)
        told = {num_labels: round(found[name, num_labels], 2) for num_labels in before}
        print(f"{num} seed {seed}, {name}: {told}, {report.num_left_out} left out", flush=True)
    return found


def test_every_twentieth_being_hostile_costs_the_others_less_than_a_point() -> None:
    """The smaller population, where no prototype is left for the hostile, and the attacks that cost most."""
    worst = ("the opposite of somebody honest", "the opposite of everybody together")
    assert max(abs(move) for move in moves(FEW, replace(CONFIG, num_prototypes=(1, 2)), 1, worst).values()) < 1.0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_seed_and_no_size_costs_the_others_a_point(seed: int) -> None:
    few = moves(FEW, replace(CONFIG, num_prototypes=(1, 2)), seed)
    assert max(abs(move) for move in (few | moves(MANY, CONFIG, seed)).values()) < 1.0


def test_a_minority_of_a_tenth_is_kept_among_hostile_people() -> None:
    """540 people of one mind, 60 of another, 32 who say the opposite of the first."""
    axes = 2.0 * np.eye(6)[:2]
    honest = simulate(axes, (540, 60), NUM_EACH, spread=0.3, flip_rate=0.0, seed=0)
    opposite = Attack(np.tile(-10.0 * axes[0], (32, 1)))
    config = replace(CONFIG, num_prototypes=(1, 2, 4), flip_rates=(0.0,))
    for crowd, num_hostile in ((honest, 0), (joined(honest, opposite, 0), 32)):
        population, report = fitted(crowd, config)
        assert num_hostile <= report.num_left_out <= num_hostile + 24  # and few of the honest
        rewards = (population.means + population.base_weights) @ population.basis / population.scale
        unit = rewards / np.linalg.norm(rewards, axis=1)[:, None]
        assert (unit[:, 1] > 0.95).any()  # the minority's prototype
        assert (unit[:, 0] > 0.95).any()


@pytest.mark.parametrize("max_choosing", [10_000, 300])
def test_hostile_people_are_left_out_whoever_chooses(max_choosing: int) -> None:
    """400 people of one mind and 32 who say the opposite: all are sifted in the basis of some."""
    tastes = 2.0 * np.eye(6)[:1]
    honest = simulate(tastes, (400,), NUM_EACH, spread=0.3, flip_rate=0.0, seed=0)
    crowd = joined(honest, Attack(np.tile(-5.0 * tastes[0], (32, 1))), 0)
    config = replace(CONFIG, num_prototypes=(1,), flip_rates=(0.0,), max_choosing=max_choosing)
    population, report = fitted(crowd, config)
    assert 32 <= report.num_left_out <= 40
    reward = (population.means + population.base_weights)[0] @ population.basis / population.scale
    assert reward[0] > 0.95 * np.linalg.norm(reward)


def test_feedback_of_hostile_people_is_in_the_fit() -> None:
    """The attack is real: their tastes are found in what they said."""
    honest = honest_crowd(20, 0)
    for name in ATTACKS:
        hostile = attack(name, 20, 0)
        crowd = joined(honest, hostile, 0)
        differences = crowd.features[crowd.plus] - crowd.features[crowd.minus]
        assert crowd.table().num_people == 40
        for person, taste in enumerate(hostile.tastes, start=20):
            shown = differences[crowd.people == person]
            assert len(shown) == NUM_EACH
            if hostile.flip_rate is None:
                assert (shown @ taste > 0).all()
        if hostile.are_copies:
            np.testing.assert_array_equal(differences[crowd.people == 20], differences[crowd.people == 39])
