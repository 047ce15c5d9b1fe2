from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from router.basis import BasisConfig
from router.laplace import Mode
from router.population import FitConfig, FitReport, Task, fit_population, plain_layout
from router.posterior import choice_probability, condition, prior
from router.types import Array, Population
from tests.router.worlds import World, simulate

CONFIG = FitConfig(basis=BasisConfig(rank=4), temperings=(1.0,), em_iterations=16)


def fitted(world: World, num_prototypes: tuple[int, ...]) -> tuple[Population, FitReport]:
    config = replace(CONFIG, num_prototypes=num_prototypes)
    return fit_population(world.table, plain_layout(world.table.features), config, seed=0)


def tastes(population: Population) -> Array:
    """Mean raw-feature weights of each prototype, base included, (K, P)."""
    return (population.means + population.base_weights) @ (population.basis / population.scale)


def cosines(truth: Array, found: Array) -> Array:
    return np.asarray((truth @ found.T) / np.linalg.norm(truth, axis=1)[:, None] / np.linalg.norm(found, axis=1))


def group_accuracies(population: Population, world: World, fresh: World, shots: int = 100) -> list[float]:
    """Accuracy on clean fresh comparisons of people seen through `shots` noisy ones, by true prototype."""
    hits: list[list[float]] = [[] for _ in range(len(world.prototypes))]
    rng = np.random.default_rng(9)
    for person, evidence in enumerate(fresh.table.evidence(population)):
        few = replace(
            evidence,
            **{
                name: getattr(evidence, name)[:shots]
                for name in (
                    *("designs", "offsets", "groups", "lows", "highs", "weights", "num_outcomes", "times_s"),
                    *("event_ids", "targets"),
                )
            },
        )
        belief = condition(population, prior(population), few, shots)
        gaps = rng.normal(size=(200, fresh.weights.shape[1])) * np.sqrt(2.0)
        said = choice_probability(population, belief, gaps / population.scale @ population.basis.T) > 0.5
        hits[fresh.members[person]].append(float((said == (gaps @ fresh.weights[person] > 0)).mean()))
    return [float(np.mean(group)) for group in hits]


def test_two_prototypes_with_a_minority_and_flips_are_recovered() -> None:
    world = simulate(1, [0.9, 0.1], num_people=240)
    population, report = fitted(world, (1, 2))
    assert population.num_prototypes == 2
    assert cosines(world.prototypes, tastes(population)).max(axis=1).min() > 0.95
    assert population.mixture_weights.min() == pytest.approx((world.members == 1).mean(), abs=0.03)
    assert population.flip_rate == pytest.approx(0.2, abs=0.05)
    assert report.held_out_log_evidence[2] > report.held_out_log_evidence[1]
    fresh = _same_prototypes(world, seed=77)
    majority, minority = group_accuracies(population, world, fresh)
    assert minority > majority - 0.02


def test_four_prototypes_with_flips_are_recovered() -> None:
    world = simulate(2, [0.4, 0.3, 0.2, 0.1], num_people=240)
    population, report = fitted(world, (1, 4))
    assert population.num_prototypes == 4
    assert cosines(world.prototypes, tastes(population)).max(axis=1).min() > 0.95
    assert population.flip_rate == pytest.approx(0.2, abs=0.05)
    assert report.groups.shares.sum() == pytest.approx(1.0)
    assert report.groups.accuracy[report.groups.worst] == np.nanmin(report.groups.accuracy)


def test_one_prototype_suffices_where_there_is_one_and_gating_follows_prompts() -> None:
    world = simulate(3, [1.0], flip_rate=0.0, num_people=80, num_events=20)
    config = replace(CONFIG, num_prototypes=(1, 2), em_iterations=4, flip_rates=(0.0,))
    calls = []

    def mapped(function: Callable[[Task], Mode], tasks: Sequence[Task]) -> Iterable[Mode]:
        calls.append(len(tasks))
        return [function(task) for task in tasks]

    table = replace(world.table, prompts=np.zeros((80, 2)))
    layout = plain_layout(table.features, np.eye(1, 6), ("first",))
    population, _ = fit_population(table, layout, config, 0, mapped)
    assert population.num_prototypes == 1
    assert population.flip_rate == 0.0
    assert population.attribute_names == ("first", *[""] * 5)
    assert population.gating_weights is not None
    assert population.gating_weights.shape == (1, 3)
    assert max(calls) == 80
    again, _ = fit_population(table, layout, config, 0)
    np.testing.assert_array_equal(population.covariances, again.covariances)


def test_config_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="ascending"):
        FitConfig(num_prototypes=(2, 1))
    with pytest.raises(ValueError, match="em_iterations"):
        FitConfig(em_iterations=0)
    with pytest.raises(ValueError, match="held_out_share"):
        FitConfig(held_out_share=1.0)


def _same_prototypes(world: World, seed: int) -> World:
    """Fresh people of the same prototypes."""
    rng = np.random.default_rng(seed)
    K, P = world.prototypes.shape
    members = np.arange(120) % K
    weights = world.prototypes[members] + 0.3 * rng.normal(size=(120, P))
    fresh = simulate(seed, [1.0], flip_rate=0.0, num_people=120, num_events=100)
    X, table = fresh.table.features, fresh.table
    scores = np.sum((X[table.plus] - X[table.minus]) * weights[table.row_people], axis=1)
    liked = (rng.random(len(scores)) < 1 / (1 + np.exp(-scores))) ^ (rng.random(len(scores)) < 0.2)
    plus, minus = np.where(liked, table.plus, table.minus), np.where(liked, table.minus, table.plus)
    return World(replace(table, plus=plus, minus=minus), world.prototypes, members, weights)
