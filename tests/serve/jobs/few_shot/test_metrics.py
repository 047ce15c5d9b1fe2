import numpy as np
import pytest

from serve.jobs.few_shot.metrics import calibration_error, hits, losses, person_interval


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
