import itertools

import numpy as np
import pytest

from router.likelihood import concatenate, empty_evidence, encode, evaluate, log_likelihood, select
from router.types import Comparison, Event, Ranking, Rating, Thumb
from tests.router.worlds import mixed_events, small_population

D = 3
PEOPLE = small_population(D, 1)
LATENT = np.array([[0.3, -0.7, 1.1, 0.4], [2.0, 1.0, -1.0, -0.5]])  # (K, D + 1)
X = np.random.default_rng(1).normal(size=(4, D))


def probability(event: Event, flip_rate: float = 0.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Probability of the whole event at each latent."""
    return np.asarray(np.exp(log_likelihood(encode(PEOPLE, event), LATENT, flip_rate).sum(axis=1)))


@pytest.mark.parametrize("flip_rate", [0.0, 0.15])
def test_outcomes_of_every_kind_sum_to_one(flip_rate: float) -> None:
    pairs = [Comparison(event_id="e", chosen=X[i], rejected=X[1 - i]) for i in (0, 1)]
    thumbs = [Thumb(event_id="e", features=X[0], reference=X[1], value=value) for value in (1, -1)]
    ratings = [Rating(event_id="e", features=X[0], reference=X[1], level=level) for level in range(5)]
    rankings = [Ranking(event_id="e", features=X[list(order)]) for order in itertools.permutations(range(4))]
    for outcomes in (pairs, thumbs, ratings, rankings):
        np.testing.assert_allclose(sum(probability(outcome, flip_rate) for outcome in outcomes), 1.0, rtol=1e-12)


def test_kinds_have_their_textbook_forms() -> None:
    rewards = (LATENT[:, :D] + PEOPLE.base_weights) @ X.T  # (2, 4)
    gap = rewards[:, 0] - rewards[:, 1]
    np.testing.assert_allclose(
        probability(Comparison(event_id="e", chosen=X[0], rejected=X[1])), 1 / (1 + np.exp(-gap))
    )
    threshold = LATENT[:, D]
    up = probability(Thumb(event_id="e", features=X[0], reference=X[1], value=1))
    np.testing.assert_allclose(up, 1 / (1 + np.exp(threshold - gap)))
    lowest = probability(Rating(event_id="e", features=X[0], reference=X[1], level=0))
    np.testing.assert_allclose(lowest, 1 / (1 + np.exp(gap - threshold + 1.5)))
    exponents = np.exp(rewards)
    best_of_four = exponents[:, 0] / exponents.sum(axis=1)
    then = exponents[:, 1] / exponents[:, 1:].sum(axis=1) * exponents[:, 2] / exponents[:, 2:].sum(axis=1)
    np.testing.assert_allclose(probability(Ranking(event_id="e", features=X)), best_of_four * then)


@pytest.mark.parametrize("flip_rate", [0.0, 0.1])
@pytest.mark.parametrize("kinds", ["all", "single rows"])
def test_derivatives_match_finite_differences(flip_rate: float, kinds: str) -> None:
    events = [event for event in mixed_events(D, 12) if kinds == "all" or not isinstance(event, Ranking)]
    evidence = concatenate([encode(PEOPLE, event) for event in events])
    weights = np.linspace(0.5, 1.5, evidence.num_groups)
    terms = evaluate(evidence, LATENT, weights, flip_rate)
    gradient = terms.gradient @ evidence.designs
    step = 1e-5
    for axis in range(D + 1):
        shift = step * np.eye(D + 1)[axis]
        above, below = (evaluate(evidence, LATENT + sign * shift, weights, flip_rate) for sign in (1, -1))
        np.testing.assert_allclose(gradient[:, axis], (above.values - below.values) @ weights / (2 * step), atol=1e-7)
        if flip_rate == 0.0:
            hessian = ((above.gradient - below.gradient) @ evidence.designs) / (2 * step)
            information = np.einsum("r,kr,rl->kl", evidence.designs[:, axis], terms.curvature, evidence.designs)
            if terms.between is not None:
                sums = np.add.reduceat(
                    terms.between[:, :, None] * evidence.designs,
                    np.unique(evidence.groups, return_index=True)[1],
                    axis=1,
                )
                information -= np.einsum("kg,kgl->kl", sums[:, :, axis], sums)
            np.testing.assert_allclose(information, -hessian, atol=1e-6)


def test_flipped_label_keeps_a_floor_and_no_curvature() -> None:
    far = encode(PEOPLE, Comparison(event_id="e", chosen=-100 * X[0], rejected=100 * X[0]))
    latent = np.append(X[0], 0.0)[None] * 10
    terms = evaluate(far, latent, np.ones(1), 0.1)
    np.testing.assert_allclose(np.exp(terms.values), 0.1, rtol=1e-9)
    assert np.abs(terms.gradient).max() < 1e-12
    assert terms.curvature.min() >= 0.0


def test_select_keeps_whole_events_and_empty_evidence_is_neutral() -> None:
    evidence = concatenate([empty_evidence(D + 1), *[encode(PEOPLE, event) for event in mixed_events(D, 8)]])
    keep = [name in ("e3", "e5") for name in evidence.event_ids]
    part = select(evidence, keep)
    assert part.event_ids == ("e3", "e3", "e5")
    np.testing.assert_allclose(
        log_likelihood(part, LATENT, 0.1), log_likelihood(evidence, LATENT, 0.1)[:, np.flatnonzero(keep)]
    )


def test_encode_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="event has 2 features"):
        encode(PEOPLE, Comparison(event_id="e", chosen=np.ones(2), rejected=np.zeros(2)))
    with pytest.raises(ValueError, match="level 5 is above"):
        encode(PEOPLE, Rating(event_id="e", features=X[0], reference=X[1], level=5))
    with pytest.raises(ValueError, match="not Event"):
        encode(PEOPLE, Event(event_id="e"))
