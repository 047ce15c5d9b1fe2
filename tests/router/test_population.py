from dataclasses import replace

import numpy as np
import pytest

from router.basis import BasisConfig
from router.em import Run, single_prior
from router.population import FitConfig, FitReport, choose_prior, fit_population, plain_layout
from router.posterior import choice_probability, condition, prior
from router.tabulation import tabulate
from router.types import Array, Comparison, Population
from tests.router.simulated import Crowd, simulate

AXES = 2.0 * np.eye(4)
NUM_EACH = 30


def config(*sizes: int, flip_rates: tuple[float, ...] = (0.0,), rank: int = 2, iterations: int = 5) -> FitConfig:
    return FitConfig(
        basis=BasisConfig(rank=rank),
        num_prototypes=sizes,
        em_iterations=iterations,
        flip_rates=flip_rates,
        temperings=(1.0,),
    )


def cosines(found: Array, wanted: Array) -> Array:
    """Cosine of each wanted prototype with the nearest found."""
    unit = found / np.linalg.norm(found, axis=1)[:, None]
    return np.asarray((unit @ (wanted / np.linalg.norm(wanted, axis=1)[:, None]).T).max(axis=0))


def raw_prototypes(population: Population) -> Array:
    """Rewards of the prototypes over raw features, (K, P)."""
    return np.asarray((population.means + population.base_weights) @ population.basis / population.scale)


def accuracy(population: Population, crowd: Crowd, seed: int) -> float:
    """Expected accuracy over fresh pairs, for people of whom the population knows their crowd's comparisons."""
    rng, shares = np.random.default_rng(seed), []
    for taste, evidence in zip(crowd.tastes, crowd.table().evidence(population), strict=True):
        belief = condition(population, prior(population), evidence, evidence.num_groups)
        differences = np.sqrt(2.0) * rng.normal(size=(100, taste.size))
        p = choice_probability(population, belief, (differences / population.scale) @ population.basis.T)
        truth = 1 / (1 + np.exp(-differences @ taste))
        shares.append(np.where(p > 0.5, truth, 1 - truth).mean())
    return float(np.mean(shares))


@pytest.fixture(scope="module")
def minority() -> tuple[Population, FitReport]:
    """180 people of one prototype and 20 of another; a fifth of the labels flipped; seed 0."""
    crowd = simulate(AXES[:2, :3], (180, 20), NUM_EACH, spread=0.3, flip_rate=0.2, seed=0)
    settings = config(2, flip_rates=(0.1, 0.2, 0.3), iterations=10)
    return fit_population(crowd.table(), plain_layout(crowd.features), settings, seed=0)


def test_a_minority_of_a_tenth_is_found_through_a_fifth_of_flipped_labels(
    minority: tuple[Population, FitReport],
) -> None:
    population, report = minority
    assert population.num_prototypes == 2
    assert population.flip_rate == pytest.approx(0.2, abs=0.05)
    assert population.mixture_weights.min() == pytest.approx(0.1, abs=0.05)  # found as .128
    found = cosines(raw_prototypes(population), AXES[:2, :3])
    assert found[0] > 0.98
    assert found[1] > 0.95  # twenty people; after five iterations .83
    assert report.groups.shares.sum() == pytest.approx(1.0)
    assert report.groups.worst in (0, 1)


def test_with_flipped_labels_the_minority_is_served_nearly_as_well_as_by_the_true_population(
    minority: tuple[Population, FitReport],
) -> None:
    """60 new people of each group, 30 comparisons of which a fifth is flipped.

    The bound of 2 points is on the loss against the true population, not between the groups: such labels do not
    outweigh a prior of a tenth, so that the truth itself serves the majority .822 and the minority .788. Fitted: .822
    and .779.
    """
    shares, best = gap(minority[0], flip_rate=0.2), gap(the_truth(flip_rate=0.2), flip_rate=0.2)
    assert best[0] - best[1] == pytest.approx(0.035, abs=0.002)
    assert shares[0] > best[0] - 0.02
    assert shares[1] > best[1] - 0.02


def the_truth(flip_rate: float) -> Population:
    """The population that the minority's crowds are drawn from."""
    return Population(
        basis=np.eye(3),
        center=np.zeros(3),
        scale=np.ones(3),
        mixture_weights=np.array([0.9, 0.1]),
        means=AXES[:2, :3],
        covariances=0.09 * np.stack([np.eye(3)] * 2),
        base_weights=np.zeros(3),
        flip_rate=flip_rate,
    )


def test_a_minority_with_honest_labels_is_served_as_well_as_the_majority() -> None:
    # 270 and 30 people, seed 0; 60 new people of each: found .103 of people, cosine .996, .8 points behind.
    crowd = simulate(AXES[:2, :3], (270, 30), NUM_EACH, spread=0.3, flip_rate=0.0, seed=0)
    population, _ = fit_population(crowd.table(), plain_layout(crowd.features), config(1, 2, iterations=8), seed=0)
    assert population.num_prototypes == 2
    assert population.mixture_weights.min() == pytest.approx(0.1, abs=0.02)
    assert cosines(raw_prototypes(population), AXES[:2, :3]).min() > 0.98
    shares = gap(population, flip_rate=0.0)
    assert abs(shares[0] - shares[1]) < 0.02


def gap(population: Population, flip_rate: float) -> list[float]:
    """Accuracy for new people of the majority, and of the minority."""
    crowds = [
        simulate(AXES[:2, :3], sizes, NUM_EACH, spread=0.3, flip_rate=flip_rate, seed=100)
        for sizes in ((60, 0), (0, 60))
    ]
    return [accuracy(population, crowd, seed=5) for crowd in crowds]


def test_four_prototypes_are_found() -> None:
    # 40 people of each, 30 comparisons, no flips; seed 0.
    crowd = simulate(AXES, (40,) * 4, NUM_EACH, spread=0.3, flip_rate=0.0, seed=0)
    population, report = fit_population(crowd.table(), plain_layout(crowd.features), config(1, 4, rank=4), seed=0)
    assert population.num_prototypes == 4
    assert cosines(raw_prototypes(population), AXES).min() > 0.95
    np.testing.assert_allclose(population.mixture_weights, 0.25, atol=0.08)
    assert report.held_out_log_evidence[4] > report.held_out_log_evidence[1]
    assert np.isfinite(report.log_evidence)


def test_four_prototypes_are_found_through_a_fifth_of_flipped_labels() -> None:
    # 40 people of each, 30 comparisons; seed 0 (seeds 1 and 2 find the same rate, cosines from .97). Flips and small
    # rewards look alike: after five steps of EM the rate is .1 and rewards .4 of the truth, after ten .2 and .96.
    crowd = simulate(AXES, (40,) * 4, NUM_EACH, spread=0.3, flip_rate=0.2, seed=0)
    settings = config(1, 4, flip_rates=(0.0, 0.1, 0.2, 0.3), rank=4, iterations=10)
    population, _ = fit_population(crowd.table(), plain_layout(crowd.features), settings, seed=0)
    assert population.num_prototypes == 4
    assert population.flip_rate == pytest.approx(0.2, abs=0.05)
    found = raw_prototypes(population)
    assert cosines(found, AXES).min() > 0.97
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 2.0, atol=0.4)
    np.testing.assert_allclose(population.mixture_weights, 0.25, atol=0.06)


def test_people_of_one_mind_need_one_prototype() -> None:
    for seed in (0, 1):
        crowd = simulate(AXES[:1, :2], (80,), 20, spread=0.5, flip_rate=0.0, seed=seed)
        people = crowd.table().evidence_of(crowd.features, np.zeros(2))
        start = single_prior(people, np.zeros(2), 0.0)
        chosen, held_out, by_size = choose_prior(people, start, config(1, 2), np.random.default_rng(seed))
        assert chosen.means.shape[0] == 1
        assert len(held_out) == 27  # a third
        assert set(by_size) == {1, 2}
        np.testing.assert_allclose(chosen.means[0, :2], [2.0, 0.0], atol=0.3)
        np.testing.assert_allclose(np.diagonal(chosen.covariances[0])[:2], 0.25, atol=0.2)


def test_more_prototypes_than_tastes_leave_some_to_nobody() -> None:
    # All the same person: every cluster but one is empty.
    crowd = simulate(AXES[:1, :2], (1,), 10, spread=0.0, flip_rate=0.0, seed=0)
    people = crowd.table().evidence_of(crowd.features, np.zeros(2)).of(np.zeros(6, np.int64))
    start = single_prior(people, np.zeros(2), 0.0)
    chosen, _, _ = choose_prior(people, start, config(4), np.random.default_rng(0))
    assert chosen.means.shape[0] == 4
    assert np.isfinite(chosen.means).all()
    assert np.isfinite(chosen.log_weights).all()


def test_the_fit_is_the_same_under_the_same_seed_and_any_map() -> None:
    crowd = simulate(AXES[:2, :2], (20, 20), 10, spread=0.3, flip_rate=0.0, seed=3)
    layout = plain_layout(crowd.features, np.eye(1, 2), ("first",))
    mapped: list[int] = []

    def mapping(function, tasks):  # type: ignore[no-untyped-def]  # any callable of map's form
        mapped.append(len(tasks))
        return [function(task) for task in reversed(tasks)][::-1]

    one, _ = fit_population(crowd.table(), layout, config(1, 2, iterations=2), seed=4)
    two, _ = fit_population(crowd.table(), layout, config(1, 2, iterations=2), 4, Run(mapping))
    for name, array in one.to_arrays().items():
        np.testing.assert_array_equal(array, two.to_arrays()[name])
    assert mapped
    assert one.attribute_names == ("first", "", "", "")


def test_a_fit_goes_on_after_the_steps_it_remembers() -> None:
    crowd = simulate(AXES[:2, :2], (20, 20), 10, spread=0.3, flip_rate=0.0, seed=3)
    arguments = crowd.table(), plain_layout(crowd.features), config(1, 2, iterations=3), 4
    kept: list[object] = []
    recalled: list[object] = []

    def keep(kind, find):  # type: ignore[no-untyped-def]  # generic
        kept.append(find())
        return kept[-1]

    def recall(kind, find):  # type: ignore[no-untyped-def]  # generic
        recalled.append(kept[len(recalled)] if len(recalled) < len(kept) - 2 else find())
        assert isinstance(recalled[-1], kind)
        return recalled[-1]

    one, _ = fit_population(*arguments, Run(keep=keep))
    two, _ = fit_population(*arguments, Run(keep=recall))
    assert len(recalled) == len(kept)
    np.testing.assert_array_equal(one.basis, two.basis)
    np.testing.assert_allclose(one.means, two.means, atol=2e-3)  # modes are found from other starts, to their tolerance
    np.testing.assert_allclose(one.covariances, two.covariances, atol=2e-3)


def test_prompts_that_differ_between_prototypes_teach_the_gate() -> None:
    crowd = simulate(AXES[:2, :2], (25, 25), 15, spread=0.2, flip_rate=0.0, seed=6)
    prompts = np.where(crowd.prototypes == 0, 1.0, -1.0)[:, None]
    zeros = np.zeros(2)
    rows = zip(crowd.people, crowd.plus, crowd.minus, strict=True)
    events: list[list[Comparison]] = [[] for _ in range(50)]
    for index, (person, plus, minus) in enumerate(rows):
        x = crowd.features[plus] - crowd.features[minus]
        events[person].append(Comparison(event_id=str(index), chosen=x, rejected=zeros))
    table = tabulate(events, prompts=prompts)
    population, _ = fit_population(table, plain_layout(table.features), config(2, iterations=3), seed=0)
    assert population.gating_weights is not None
    first = int(cosine_to_first(population).argmax())
    assert population.gating_weights[first, 0] - population.gating_weights[1 - first, 0] > 1.0


def cosine_to_first(population: Population) -> Array:
    raw = raw_prototypes(population)
    return np.asarray(raw[:, 0] / np.linalg.norm(raw, axis=1))


def test_some_of_many_people_choose_and_everybody_teaches() -> None:
    # 240 people of two kinds; EM begins with 100. The prior is that of all, within what another sample would move.
    crowd = simulate(AXES[:2, :2], (120, 120), 20, spread=0.3, flip_rate=0.0, seed=8)
    settings = config(2, iterations=4)
    arguments = crowd.table(), plain_layout(crowd.features)
    seen: list[int] = []

    def counting(function, tasks):  # type: ignore[no-untyped-def]  # any callable of map's form
        seen.append(sum(len(task.people) for task in tasks))
        return map(function, tasks)

    all_of_them, _ = fit_population(*arguments, settings, 0)
    some, _ = fit_population(*arguments, replace(settings, max_choosing=100), 0, Run(counting))
    assert max(seen[: seen.index(240)]) <= 100
    assert seen[-1] == 240
    found, all_found = (rows[np.argsort(rows[:, 0])] for rows in (raw_prototypes(some), raw_prototypes(all_of_them)))
    assert np.linalg.norm(found - all_found, axis=1).max() < 0.15 * np.linalg.norm(all_found, axis=1).min()
    np.testing.assert_allclose(some.mixture_weights, 0.5, atol=0.08)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_prototypes": ()}, "candidates from 1 up"),
        ({"num_prototypes": (0, 1)}, "candidates from 1 up"),
        ({"num_prototypes": (2, 1)}, "ascending"),
        ({"max_choosing": 1}, "max_choosing must be at least 2"),
        ({"em_iterations": 0}, "at least 1"),
        ({"num_restarts": 0}, "at least 1"),
        ({"held_out_share": 1.0}, "between 0 and 1"),
        ({"odd_share": 0.5}, "between 0 and .3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitConfig(**settings)  # type: ignore[arg-type]  # wrong values are the point
