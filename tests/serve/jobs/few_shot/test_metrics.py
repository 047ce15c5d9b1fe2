import numpy as np
import pytest

from serve.jobs.few_shot.metrics import calibration_error, hits, losses, person_and_text_interval, person_interval


def test_hits_and_losses() -> None:
    assert hits(np.array([0.9, 0.5, 0.1])).tolist() == [1.0, 0.5, 0.0]
    np.testing.assert_allclose(losses(np.array([np.exp(-1), 1.0])), [1.0, 0.0])
    assert np.isfinite(losses(np.zeros(1))).all()


def test_calibration_error_sees_overconfidence() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1.0, size=100_000)
    given = np.where(rng.random(100_000) < confidence, confidence, 1 - confidence)
    assert calibration_error(given) < 0.01
    boastful = np.where(rng.random(100_000) < 0.6, 0.9, 0.1)
    assert calibration_error(boastful) == pytest.approx(0.3, abs=0.01)


def test_interval_resamples_people_and_not_answers() -> None:
    rng = np.random.default_rng(1)
    people = [np.full(25, value) for value in rng.normal(size=100)]
    mean, low, high = person_interval(people)
    assert mean == pytest.approx(np.mean(people))
    assert high - low == pytest.approx(2 * 1.96 * np.std([p[0] for p in people]) / 10, rel=0.15)


def test_interval_of_unseen_texts_knows_that_texts_are_few() -> None:
    # 100 people are asked of the same 20 texts, which differ and people do not.
    rng = np.random.default_rng(2)
    of_texts = rng.normal(size=20)
    values, texts = [of_texts] * 100, [np.column_stack([np.arange(20), np.full(20, -1)])] * 100
    mean, low, high = person_and_text_interval(values, texts)
    assert mean == pytest.approx(of_texts.mean())
    assert high - low == pytest.approx(2 * 1.96 * of_texts.std() / np.sqrt(20), rel=0.15)
    assert np.ptp(person_interval(values)) < 1e-9


def test_interval_of_unseen_texts_where_people_differ_is_that_of_people() -> None:
    rng = np.random.default_rng(3)
    people = [np.full(20, value) for value in rng.normal(size=100)]
    texts = [np.column_stack([np.arange(20), np.arange(20, 40)])] * 100
    both, alone = person_and_text_interval(people, texts), person_interval(people)
    assert both[0] == alone[0]
    assert np.ptp(both[1:]) == pytest.approx(np.ptp(alone[1:]), rel=0.15)
