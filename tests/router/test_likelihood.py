from dataclasses import replace

import numpy as np
import pytest

from router.likelihood import concatenate, empty_evidence, encode, evaluate, log_likelihood, probabilities, select
from router.types import Array, Comparison, Event, Evidence, Rating
from tests.router.cases import make_population
from tests.router.chances import KINDS, chance, outcomes

D = 2
POPULATION = replace(make_population(K=1, D=D), base_weights=np.array([0.4, -0.7]))


def responses(seed: int) -> tuple[Array, Array, Array]:
    a, b, c = np.random.default_rng(seed).normal(size=(3, D))
    return a, b, c


def one_of_each() -> list[Event]:
    events = [outcomes(kind, *responses(7 + i))[i % 2] for i, kind in enumerate(KINDS)]
    return [*events, outcomes("rating", *responses(20))[4], outcomes("rating", *responses(21))[2]]


def joined(events: list[Event]) -> Evidence:
    return concatenate([encode(POPULATION, event) for event in events])


def weighted(evidence: Evidence, weights: Array, flip_rate: float, latent: Array) -> float:
    return float(log_likelihood(evidence, latent[None], flip_rate)[0] @ weights)


@pytest.mark.parametrize("flip_rate", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_each_label_has_the_probability_written_out_by_hand(kind: str, flip_rate: float) -> None:
    latents = np.random.default_rng(1).normal(size=(3, D + 1))
    total = np.zeros(3)
    for event in outcomes(kind, *responses(3)):
        evidence = encode(POPULATION, event)
        got = np.exp(log_likelihood(evidence, latents, flip_rate).sum(axis=1))  # (K,)
        want = [chance(POPULATION, event, latent[:-1], float(latent[-1]), flip_rate) for latent in latents]
        np.testing.assert_allclose(got, want, rtol=1e-9)
        total += got
    np.testing.assert_allclose(total, 1.0, rtol=1e-9)  # over everything that could have been said


@pytest.mark.parametrize("flip_rate", [0.0, 0.15])
@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_gradient_against_finite_differences(kind: str, flip_rate: float) -> None:
    events = one_of_each() if kind == "all" else outcomes(kind, *responses(4))
    evidence = joined(events)
    weights = np.random.default_rng(2).uniform(0.2, 1.0, evidence.num_groups)
    latents = np.random.default_rng(3).normal(size=(2, D + 1))
    got = evaluate(evidence, latents, weights, flip_rate).gradient @ evidence.designs
    for k, i in np.ndindex(2, D + 1):
        step = 1e-5 * np.eye(D + 1)[i]
        high = weighted(evidence, weights, flip_rate, latents[k] + step)
        low = weighted(evidence, weights, flip_rate, latents[k] - step)
        assert got[k, i] == pytest.approx((high - low) / 2e-5, abs=1e-7)


@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_curvature_without_flips_is_the_second_derivative(kind: str) -> None:
    events = one_of_each() if kind == "all" else outcomes(kind, *responses(5))
    evidence, latent = joined(events), np.array([0.3, -0.2, 0.1])
    weights = np.random.default_rng(2).uniform(0.2, 1.0, evidence.num_groups)
    got = information(evidence, latent, weights, 0.0)
    np.testing.assert_allclose(got, numeric_information(evidence, latent, weights, 0.0), atol=1e-6)


@pytest.mark.parametrize("flip_rate", [0.1, 0.3])
def test_curvature_of_binary_labels_with_flips_is_exact_and_never_negative(flip_rate: float) -> None:
    event = Comparison(event_id="e", chosen=np.array([1.0, 0.0]), rejected=np.zeros(2))
    evidence, weights = encode(POPULATION, event), np.ones(1)
    for w in np.linspace(-4.0, 4.0, 17):
        latent = np.array([w, 0.0, 0.0])
        exact = numeric_information(evidence, latent, weights, flip_rate)[0, 0]
        got = information(evidence, latent, weights, flip_rate)[0, 0]
        assert got == pytest.approx(max(exact, 0.0), abs=1e-6)


@pytest.mark.parametrize("flip_rate", [0.1, 0.3])
def test_curvature_of_choices_with_flips_bounds_the_exact_one_from_above(flip_rate: float) -> None:
    evidence, weights = joined(one_of_each()), np.ones(len(one_of_each()) + 1)
    for seed in range(20):
        latent = 2.0 * np.random.default_rng(seed).normal(size=D + 1)
        got = information(evidence, latent, weights, flip_rate)
        assert np.linalg.eigvalsh(got).min() > -1e-12
        excess = got - numeric_information(evidence, latent, weights, flip_rate)
        assert np.linalg.eigvalsh(excess).min() > -1e-6


@pytest.mark.parametrize("flip_rate", [0.0, 0.1, 0.3])
def test_exact_curvature_is_the_second_derivative_whatever_the_flips(flip_rate: float) -> None:
    for events in (one_of_each(), outcomes("rating", *responses(6))):
        evidence = joined(events)
        weights = np.random.default_rng(2).uniform(0.2, 1.0, evidence.num_groups)
        latent = np.array([1.3, -0.9, 0.4])
        terms = evaluate(evidence, latent[None], weights, flip_rate)
        got = assemble(evidence, terms.exact, terms.exact_between)
        np.testing.assert_allclose(got, numeric_information(evidence, latent, weights, flip_rate), atol=1e-6)


def information(evidence: Evidence, latent: Array, weights: Array, flip_rate: float) -> Array:
    terms = evaluate(evidence, latent[None], weights, flip_rate)
    return assemble(evidence, terms.curvature, terms.between)


def assemble(evidence: Evidence, curvature: Array, between: Array | None) -> Array:
    total = evidence.designs.T @ (curvature[0][:, None] * evidence.designs)
    if between is not None:
        for g in range(evidence.num_groups):
            rows = evidence.groups == g
            v = between[0, rows] @ evidence.designs[rows]
            total = total - np.outer(v, v)
    return np.asarray(total)


def numeric_information(evidence: Evidence, latent: Array, weights: Array, flip_rate: float) -> Array:
    h, L = 1e-4, latent.size
    result = np.empty((L, L))
    for i, j in np.ndindex(L, L):
        total = 0.0
        for si, sj in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            moved = latent + h * (si * np.eye(L)[i] + sj * np.eye(L)[j])
            total += si * sj * weighted(evidence, weights, flip_rate, moved)
        result[i, j] = -total / (4 * h * h)
    return result


@pytest.mark.parametrize("flip_rate", [0.0, 0.2])
def test_what_could_have_been_said_instead(flip_rate: float) -> None:
    latents = np.random.default_rng(2).normal(size=(3, D + 1))
    spoken = [outcomes(kind, *responses(4)) for kind in ("comparison", "choice", "thumb")]
    levels = outcomes("rating", *responses(4))
    found = probabilities(joined([events[0] for events in spoken] + levels[1:2]), latents, flip_rate)  # (3, 4, 3)
    for group, events in enumerate(spoken):
        each = [np.exp(log_likelihood(encode(POPULATION, event), latents, flip_rate)[:, 0]) for event in events]
        np.testing.assert_allclose(found[:, group, : len(each)], np.transpose(each))
        assert not found[:, group, len(each) :].any()
    level = np.exp(log_likelihood(encode(POPULATION, levels[1]), latents, flip_rate)[:, 0])
    np.testing.assert_allclose(found[:, 3], np.column_stack([level, 1.0 - level, np.zeros(3)]))


@pytest.mark.parametrize("flip_rate", [0.0, 0.2])
def test_absurd_scores_stay_finite(flip_rate: float) -> None:
    for events in (one_of_each(), outcomes("rating", *responses(1)), outcomes("thumb", *responses(1))):
        evidence = joined(events)
        for size in (-1e5, 1e5):
            terms = evaluate(evidence, np.full((1, D + 1), size), np.ones(evidence.num_groups), flip_rate)
            assert np.isfinite(terms.values).all()
            assert np.isfinite(terms.gradient).all()
            assert (terms.values <= 1e-12).all()
            assert (terms.curvature >= 0.0).all()


def test_select_undoes_concatenate() -> None:
    events = one_of_each()
    everything = joined(events)
    for event in events:
        alone = encode(POPULATION, event)
        back = select(everything, [name == event.event_id for name in everything.event_ids])
        for name in ("designs", "offsets", "groups", "lows", "highs", "weights", "num_outcomes", "times_s"):
            np.testing.assert_array_equal(getattr(back, name), getattr(alone, name))
        assert (back.event_ids, back.targets) == (alone.event_ids, alone.targets)
    assert select(everything, [False] * everything.num_groups).designs.shape == (0, D + 1)
    assert concatenate([empty_evidence(D + 1), everything]).num_groups == everything.num_groups


def test_events_that_do_not_fit_the_population_are_refused() -> None:
    with pytest.raises(ValueError, match="has 3 features, but the population has 2"):
        encode(POPULATION, Comparison(event_id="e", chosen=np.ones(3), rejected=np.zeros(3)))
    with pytest.raises(ValueError, match="above this population's highest, 4"):
        encode(POPULATION, Rating(event_id="e", features=np.ones(2), reference=np.zeros(2), level=5))
    with pytest.raises(ValueError, match="not Event"):
        encode(POPULATION, Event(event_id="e"))
