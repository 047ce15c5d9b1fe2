"""Stored events to beliefs and back."""

from typing import Any

import numpy as np
import pytest

from router.posterior import MAX_GROUPS, prior, update_many
from router.types import Choice, Comparison, Ranking, Rating, Thumb
from serve.preferences import IMPLICIT_WEIGHT, REMARK_WEIGHT, Preferences, decode_posterior, encode_posterior
from tests.serve.artifacts_for_tests import P, make_artifact
from tests.user_store.samples import ANN, NOW, completion, event, features
from user_store.types import CompletionRecord, FeedbackEvent, FeedbackKind, LogPosition, StoredPosterior, UserState

PREFERENCES = Preferences(make_artifact())
POPULATION = PREFERENCES.artifact.population


def record(completion_id: str = "c1", seed: int = 1, n: int = 3, **payload: Any) -> CompletionRecord:
    arms = tuple(f"arm{i}" for i in range(n))
    return completion(completion_id, features=features(seed, n, P), arms=arms, chosen=min(1, n - 1), payload=payload)


def given(kind: FeedbackKind, value: Any, *records: CompletionRecord, **changes: Any) -> FeedbackEvent:
    """An event with its evidence."""
    bare = event("e1", kind=kind, value=value, completion_ids=tuple(r.id for r in records), **changes)
    evidence = PREFERENCES.evidence(bare, records)
    assert evidence is not None
    return event("e1", kind=kind, value=value, evidence=evidence, **changes)


def phi(rows: Any) -> Any:
    return POPULATION.features(np.asarray(rows, np.float64))


def test_a_thumb_is_judged_against_the_mean_of_all_candidates() -> None:
    one = record()
    (thumb,) = PREFERENCES.events(given(FeedbackKind.THUMB, -1, one))
    assert isinstance(thumb, Thumb)
    assert (thumb.value, thumb.weight, thumb.time_s) == (-1, 1.0, NOW)
    np.testing.assert_allclose(thumb.features, phi(one.features)[1], atol=1e-6)
    np.testing.assert_allclose(thumb.reference, phi(one.features).mean(axis=0), atol=1e-6)


def test_a_single_candidate_is_judged_against_the_population() -> None:
    (thumb,) = PREFERENCES.events(given(FeedbackKind.THUMB, 1, record(n=1)))
    assert isinstance(thumb, Thumb)
    np.testing.assert_array_equal(thumb.reference, 0.0)


def test_an_implicit_signal_weighs_less() -> None:
    (thumb,) = PREFERENCES.events(given(FeedbackKind.IMPLICIT, 1, record()))
    assert thumb.weight == IMPLICIT_WEIGHT


@pytest.mark.parametrize(("value", "level"), [(1, 0), (2, 1), (3, 2), (5, 4)])
def test_stars_become_levels(value: int, level: int) -> None:
    (rating,) = PREFERENCES.events(given(FeedbackKind.RATING, value, record()))
    assert isinstance(rating, Rating)
    assert rating.level == level


def test_a_comparison_of_choices_follows_the_order_they_were_served_in() -> None:
    one = record(order=[2, 0])
    (choice,) = PREFERENCES.events(given(FeedbackKind.COMPARISON, 1, one))
    assert isinstance(choice, Comparison)
    np.testing.assert_allclose(choice.chosen, phi(one.features)[0], atol=1e-6)
    np.testing.assert_allclose(choice.rejected, phi(one.features)[2], atol=1e-6)


def test_a_comparison_of_completions_takes_what_each_served() -> None:
    records = [record("c1", 1), record("c2", 2), record("c3", 3)]
    (choice,) = PREFERENCES.events(given(FeedbackKind.COMPARISON, 2, *records))
    assert isinstance(choice, Choice)
    shown = np.stack([phi(r.features)[1] for r in records])
    np.testing.assert_allclose(choice.chosen, shown[2], atol=1e-6)
    np.testing.assert_allclose(choice.rejected, shown[:2], atol=1e-6)


def test_a_ranking_orders_some_of_the_choices() -> None:
    one = record(order=[0, 1, 2])
    (ranking,) = PREFERENCES.events(given(FeedbackKind.RANKING, [2, 0], one))
    assert isinstance(ranking, Ranking)
    np.testing.assert_allclose(ranking.features, phi(one.features)[[2, 0]], atol=1e-6)


@pytest.mark.parametrize("kind", [FeedbackKind.EDIT, FeedbackKind.DEMONSTRATION])
def test_what_a_person_wrote_is_preferred_to_what_was_shown(kind: FeedbackKind) -> None:
    one, measured = record(), features(9, 1, P)
    bare = event("e1", kind=kind, completion_ids=("c1",))
    evidence = PREFERENCES.evidence(bare, [one], measured)
    waiting = event("e1", kind=kind, completion_ids=("c1",), payload=PREFERENCES.measured_payload(measured))
    waited = PREFERENCES.evidence(waiting, [one])
    assert evidence is not None
    assert waited is not None
    for name in ("chosen", "rejected", "space"):
        np.testing.assert_array_equal(evidence[name], waited[name])
    (comparison,) = PREFERENCES.events(event("e1", kind=kind, evidence=evidence))
    assert isinstance(comparison, Comparison)
    np.testing.assert_allclose(comparison.chosen, phi(measured)[0], atol=1e-6)
    np.testing.assert_allclose(comparison.rejected, phi(one.features)[1], atol=1e-6)


def test_a_demonstration_alone_is_preferred_to_the_population() -> None:
    bare = event("e1", kind=FeedbackKind.DEMONSTRATION)
    evidence = PREFERENCES.evidence(bare, [], features(9, 1, P))
    (comparison,) = PREFERENCES.events(event("e1", kind=FeedbackKind.DEMONSTRATION, evidence=evidence))
    assert isinstance(comparison, Comparison)
    np.testing.assert_array_equal(comparison.rejected, 0.0)


def test_inline_texts_are_compared_as_measured() -> None:
    measured = features(9, 2, P)
    bare = event("e1", kind=FeedbackKind.COMPARISON, value=1)
    evidence = PREFERENCES.evidence(bare, [], measured)
    (comparison,) = PREFERENCES.events(event("e1", kind=FeedbackKind.COMPARISON, value=1, evidence=evidence))
    assert isinstance(comparison, Comparison)
    np.testing.assert_allclose(comparison.chosen, phi(measured)[1], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "value", "payload"),
    [
        (FeedbackKind.COMPARISON, 7, {}),
        (FeedbackKind.COMPARISON, True, {}),
        (FeedbackKind.RANKING, [0, 9], {}),
        (FeedbackKind.RANKING, [0], {}),
        (FeedbackKind.THUMB, 1, {"choice": 5}),
        (FeedbackKind.THUMB, 1, {"is_paused": True}),
        (FeedbackKind.EDIT, None, {}),
    ],
)
def test_what_can_never_count_has_no_evidence(kind: FeedbackKind, value: Any, payload: dict[str, Any]) -> None:
    bare = event("e1", kind=kind, value=value, completion_ids=("c1",), payload=payload)
    assert PREFERENCES.evidence(bare, [record(order=[0, 1])]) is None


def test_features_of_another_space_never_count() -> None:
    one = event("e1", completion_ids=("c1",))
    evidence = PREFERENCES.evidence(one, [record(feature_space="ffffffffffffffff")])
    assert evidence is not None
    assert PREFERENCES.events(event("e1", evidence=evidence)) == []
    both = [record("c1"), record("c2", feature_space="ffffffffffffffff")]
    assert PREFERENCES.evidence(event("e1", kind=FeedbackKind.COMPARISON, value=0), both) is None


def test_a_remark_that_names_an_attribute_is_weak_evidence_on_it_alone() -> None:
    comment = given(FeedbackKind.COMMENT, None, reason="Shorter, please. And not so formal.")
    events = PREFERENCES.events(comment)
    assert [one.event_id for one in events] == ["e1/concise", "e1/formal"]
    assert all(isinstance(one, Comparison) and one.weight == REMARK_WEIGHT for one in events)
    np.testing.assert_array_equal([one.chosen for one in events], [[1, 0, 0], [0, -1, 0]])  # type: ignore[attr-defined]


def test_a_reason_adds_to_its_thumb() -> None:
    events = PREFERENCES.events(given(FeedbackKind.THUMB, -1, record(), reason="too long"))
    assert [one.event_id for one in events] == ["e1", "e1/concise"]


def many(count: int) -> list[FeedbackEvent]:
    events = []
    for i in range(count):
        value = 1 if i % 3 else -1
        evidence = PREFERENCES.evidence(event("x", value=value), [record(seed=i)])
        events.append(event(f"e{i}", value=value, created_at=NOW + i, evidence=evidence))
    return events


def assert_same(one: Any, other: Any) -> None:
    assert sorted(one) == sorted(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_folding_one_by_one_gives_what_folding_all_gives() -> None:
    events, model = many(12), PREFERENCES.model
    arrays = model.start()
    for one in events:
        arrays = model.fold(arrays, [one])
    assert_same(arrays, model.fold(model.start(), events))


def contradictory(rng: np.random.Generator, count: int) -> list[FeedbackEvent]:
    """The same two texts far apart, preferred one way and the other: a posterior with several modes."""
    texts = 12.0 * features(4, 2, P)
    events = []
    for i in range(count):
        value = int(rng.integers(2))
        evidence = PREFERENCES.evidence(event("x", kind=FeedbackKind.COMPARISON, value=value), [], texts)
        events.append(event(f"e{i}", kind=FeedbackKind.COMPARISON, value=value, evidence=evidence))
    return events


def test_contradictions_do_not_make_the_posterior_depend_on_how_the_log_was_cut() -> None:
    rng, model = np.random.default_rng(0), PREFERENCES.model
    for _ in range(10):
        events = contradictory(rng, 9)
        arrays, cut = model.start(), int(rng.integers(1, 9))
        for part in (events[:cut], events[cut:]):
            arrays = model.fold(arrays, part)
        assert_same(arrays, model.fold(model.start(), events))


def test_condensing_old_events_does_not_depend_on_how_the_log_was_cut() -> None:
    events, model = many(MAX_GROUPS + 60), PREFERENCES.model
    whole = model.fold(model.start(), events)
    cut = model.fold(model.start(), events[:300])
    cut = model.fold(model.fold(cut, events[300:530]), events[530:])
    assert "folded_precision" in whole
    assert_same(whole, cut)
    # Exactly as many as are kept: nothing is added after the last condensation.
    exact = model.fold(model.fold(model.start(), events[:400]), events[400 : MAX_GROUPS + 1])
    assert_same(exact, model.fold(model.start(), events[: MAX_GROUPS + 1]))


def test_a_belief_survives_storage() -> None:
    posterior = prior(POPULATION)
    events = [
        given(FeedbackKind.RATING, 1, record()),
        event("e2", kind=FeedbackKind.RANKING, value=[2, 0], evidence=given_ranking()),
    ]
    posterior = update_many(POPULATION, posterior, [one for e in events for one in PREFERENCES.events(e)])
    stored = StoredPosterior(encode_posterior(posterior), "a1", LogPosition("e", 2, 0), NOW)
    again = decode_posterior(stored.arrays, prior(POPULATION))
    assert again.num_events == 2
    assert again.evidence.event_ids == posterior.evidence.event_ids
    np.testing.assert_array_equal(again.evidence.lows, posterior.evidence.lows)  # infinities too
    np.testing.assert_allclose(again.mean, posterior.mean, atol=1e-12)
    latent = PREFERENCES.latent(stored)
    assert latent is not None
    np.testing.assert_allclose(np.asarray(latent, np.float64), posterior.mean, atol=1e-6)


def given_ranking() -> Any:
    one = record(order=[0, 1, 2])
    return PREFERENCES.evidence(event("e2", kind=FeedbackKind.RANKING, value=[2, 0]), [one])


def test_nothing_is_believed_without_counting_events_or_under_another_population() -> None:
    model = PREFERENCES.model
    nothing = StoredPosterior(model.start(), "a1", LogPosition("e", 1, 0), NOW)
    folded = StoredPosterior(model.fold(model.start(), many(2)), "a0", LogPosition("e", 2, 0), NOW)
    for stored in (None, nothing, folded):
        assert PREFERENCES.posterior(UserState(ANN, posterior=stored)) is None
    assert PREFERENCES.latent(nothing) is None
    assert PREFERENCES.latent(folded) is None
