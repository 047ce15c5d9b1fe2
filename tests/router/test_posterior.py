from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.likelihood import empty_evidence
from router.posterior import (
    KEPT_GROUPS,
    MAX_GROUPS,
    choice_probability,
    condition,
    forget,
    mixture_weights,
    prior,
    thumb_probability,
    update,
    update_many,
    with_flip_rate,
)
from router.types import Comparison, Event, Population, Posterior, Thumb
from tests.router.worlds import mixed_events, small_population

D = 3
PEOPLE = small_population(D, 3, flip_rate=0.05)


def compare(name: str, sign: float = 1.0, target: str = "", time_s: float = 0.0, size: float = 1.0) -> Comparison:
    ahead = size * sign * np.array([1.0, 0.5, -0.5])
    return Comparison(event_id=name, chosen=ahead, rejected=-ahead, target=target, time_s=time_s)


def in_turn(people: Population, events: list[Event]) -> Posterior:
    belief = prior(people)
    for event in events:
        belief = update(people, belief, event)
    return belief


def assert_same(one: Posterior, other: Posterior, atol: float = 1e-3) -> None:
    np.testing.assert_allclose(one.latent_means, other.latent_means, atol=atol)
    np.testing.assert_allclose(one.latent_covariances, other.latent_covariances, atol=atol)
    np.testing.assert_allclose(one.responsibilities, other.responsibilities, atol=atol)
    assert one.num_events == other.num_events


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(14)))
def test_order_of_events_is_irrelevant(order: list[int]) -> None:
    events = [*mixed_events(D, 12), compare("for"), compare("against", -1.0)]
    assert_same(in_turn(PEOPLE, [events[i] for i in order]), update_many(PEOPLE, prior(PEOPLE), events))


def test_prior_is_the_population_and_evidence_narrows_it() -> None:
    before = prior(PEOPLE)
    np.testing.assert_allclose(before.means, PEOPLE.means, atol=1e-9)
    np.testing.assert_allclose(before.responsibilities, PEOPLE.mixture_weights)
    after = in_turn(PEOPLE, [compare(f"e{i}") for i in range(5)])
    assert (np.linalg.slogdet(after.covariances)[1] < np.linalg.slogdet(before.covariances)[1]).all()
    gap = np.array([[2.0, 1.0, -1.0]])
    assert choice_probability(PEOPLE, after, gap) > choice_probability(PEOPLE, before, gap)
    assert after.num_events == 5


def test_forgetting_restores() -> None:
    events = mixed_events(D, 9)
    whole, part = in_turn(PEOPLE, events), in_turn(PEOPLE, events[:4] + events[5:])
    assert_same(forget(PEOPLE, whole, "e4"), part)
    assert_same(forget(PEOPLE, in_turn(PEOPLE, events[:1]), "e0"), prior(PEOPLE))
    with pytest.raises(ValueError, match="rebuild the posterior from the event log"):
        forget(PEOPLE, whole, "unknown")


def test_later_feedback_on_a_completion_replaces_earlier() -> None:
    first, second = compare("one", 1.0, "completion", 1.0), compare("two", -1.0, "completion", 2.0)
    wanted = in_turn(PEOPLE, [second])
    assert_same(in_turn(PEOPLE, [first, second]), wanted)
    assert_same(in_turn(PEOPLE, [second, first]), wanted)
    assert_same(update_many(PEOPLE, prior(PEOPLE), [first, second]), wanted)
    assert_same(update_many(PEOPLE, prior(PEOPLE), [second, first]), wanted)
    assert_same(in_turn(PEOPLE, [first, compare("one", -1.0, "completion", 2.0)]), wanted)
    assert_same(update_many(PEOPLE, in_turn(PEOPLE, [first]), [second]), wanted)


def test_ten_thousand_and_contradictory_events_stay_finite() -> None:
    rng = np.random.default_rng(0)
    events: list[Event] = [
        Comparison(event_id=f"e{i}", chosen=50 * rng.normal(size=D), rejected=50 * rng.normal(size=D))
        for i in range(10_000)
    ]
    many = update_many(PEOPLE, prior(PEOPLE), events)
    contradictory = update_many(PEOPLE, many, [compare(f"c{i}", (-1.0) ** i, size=1e3) for i in range(100)])
    for belief in (many, contradictory):
        assert np.isfinite(belief.latent_means).all()
        assert np.linalg.eigvalsh(belief.precision).min() > 0.0
        assert belief.evidence.num_groups <= MAX_GROUPS
        np.testing.assert_allclose(belief.responsibilities.sum(), 1.0)
    assert contradictory.num_events == 10_100
    even = update_many(PEOPLE, prior(PEOPLE), [compare(f"c{i}", (-1.0) ** i) for i in range(200)])
    probability = choice_probability(PEOPLE, even, np.array([[2.0, 1.0, -1.0]]))
    np.testing.assert_allclose(probability, 0.5, atol=0.06)


def test_folded_events_go_on_counting() -> None:
    people = small_population(D, 2)
    weights = np.array([1.0, -0.5, 0.3])
    rng = np.random.default_rng(5)
    events: list[Event] = []
    for i in range(MAX_GROUPS + 40):
        pair = rng.normal(size=(2, D))
        pair = pair if rng.random() < 1 / (1 + np.exp(-(pair[0] - pair[1]) @ weights)) else pair[::-1]
        events.append(Comparison(event_id=f"e{i}", chosen=pair[0], rejected=pair[1], time_s=float(i)))
    folded = update_many(people, prior(people), events[: MAX_GROUPS + 1])
    assert folded.evidence.num_groups == KEPT_GROUPS
    assert folded.folded_time_s == float(MAX_GROUPS)
    grown = update_many(people, folded, events[MAX_GROUPS + 1 :])
    both = replace(people, version="1")  # the same people, whose posterior folds at the end only
    wanted = update_many(both, prior(both), events)
    np.testing.assert_allclose(grown.mean, wanted.mean, atol=0.01)
    np.testing.assert_allclose(grown.log_evidence, wanted.log_evidence, atol=0.05)
    with pytest.raises(ValueError, match="rebuild"):
        forget(people, folded, "e0")


def test_drift_lets_old_evidence_fade() -> None:
    drifting = replace(PEOPLE, drift_half_life_s=10.0)
    events: list[Event] = [compare("old", 1.0, time_s=0.0), compare("new", -1.0, time_s=100.0)]
    assert_same(in_turn(drifting, events), in_turn(drifting, events[::-1]))
    assert_same(
        replace(in_turn(drifting, events), num_events=1), in_turn(drifting, events[1:]), atol=0.01
    )  # ten half-lives: a thousandth remains
    many: list[Event] = [compare(f"e{i}", time_s=0.0) for i in range(MAX_GROUPS + 1)]
    folded = update_many(drifting, prior(drifting), many)
    faded = update(drifting, folded, compare("late", time_s=1000.0))
    assert np.abs(faded.folded_precision).max() < 1e-9


def test_flip_rate_of_a_person_is_estimated() -> None:
    people = small_population(D, 1, flip_rate=0.05)
    rng = np.random.default_rng(2)
    rates = []
    for flip in (0.0, 0.3):
        events: list[Event] = []
        for i in range(300):
            pair = 4.0 * rng.normal(size=(2, D))
            right = (pair[0] - pair[1]) @ np.array([2.0, -1.0, 1.0]) > 0
            pair = pair if right ^ (rng.random() < flip) else pair[::-1]
            events.append(Comparison(event_id=f"e{i}", chosen=pair[0], rejected=pair[1]))
        rates.append(with_flip_rate(people, update_many(people, prior(people), events)).flip_rate)
    assert rates[0] < 0.05
    assert rates[1] == pytest.approx(0.3, abs=0.05)


def test_prompt_shifts_the_mixture() -> None:
    belief = in_turn(PEOPLE, [compare("e")])
    np.testing.assert_array_equal(mixture_weights(PEOPLE, belief, np.ones(1)), belief.responsibilities)
    gated = replace(PEOPLE, gating_weights=np.array([[5.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    pushed = mixture_weights(gated, belief, np.ones(1))
    odds = pushed / belief.responsibilities
    np.testing.assert_allclose(odds[0] / odds[1], np.exp(5.0))
    np.testing.assert_allclose(mixture_weights(gated, belief, np.zeros(1)), belief.responsibilities)


def test_predictions_integrate_over_the_posterior() -> None:
    people = small_population(D, 2, flip_rate=0.1)
    belief = in_turn(people, [compare("e"), Thumb(event_id="t", features=np.ones(D), reference=np.zeros(D), value=-1)])
    rng = np.random.default_rng(0)
    gap = np.array([[0.4, -1.0, 0.3]])
    total, above = 0.0, 0.0
    for k, share in enumerate(belief.responsibilities):
        latents = rng.multivariate_normal(belief.latent_means[k], belief.latent_covariances[k], size=100_000)
        scores = (latents[:, :D] + people.base_weights) @ gap[0]
        total += share * (0.1 + 0.8 / (1 + np.exp(-scores))).mean()
        above += share * (0.1 + 0.8 / (1 + np.exp(latents[:, D] - scores))).mean()
    np.testing.assert_allclose(choice_probability(people, belief, gap), total, atol=0.01)
    np.testing.assert_allclose(thumb_probability(people, belief, gap), above, atol=0.01)
    pooled = 1 / (1 + np.exp(-gap @ people.base_weights))
    np.testing.assert_allclose(choice_probability(people, prior(people), gap), pooled)


def test_a_posterior_of_another_population_is_refused() -> None:
    other = replace(PEOPLE, version="other")
    with pytest.raises(ValueError, match="posterior belongs to population '0', not 'other'"):
        update(other, prior(PEOPLE), compare("e"))


def test_conditioning_on_no_rows_changes_nothing_but_the_count() -> None:
    grown = condition(PEOPLE, prior(PEOPLE), empty_evidence(D + 1), 2)
    np.testing.assert_allclose(grown.latent_means, PEOPLE.prior_means, atol=1e-9)
    assert grown.num_events == 2
