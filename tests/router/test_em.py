import numpy as np
import pytest

from router.em import Believed, Prior, e_step, m_step, run_em, single_prior
from router.tabulation import tabulate
from router.types import Comparison, Thumb
from tests.router.simulated import simulate

AXES = 2.0 * np.eye(4)


def test_em_climbs() -> None:
    crowd = simulate(AXES[:2, :2], (20, 20), 20, spread=0.3, flip_rate=0.0, seed=5)
    people = crowd.table().evidence_of(crowd.features, np.zeros(2))
    fitted = single_prior(people, np.zeros(2), 0.0)
    totals = []
    for _ in range(6):
        fitted, joint = run_em(people, fitted, 1, (0.0,))
        totals.append(float(np.logaddexp.reduce(joint, axis=1).sum()))
    assert (np.diff(totals) > -0.1).all()  # nats; Laplace's evidence may fall by a hair
    assert totals[-1] > totals[0] + 1.0


def test_an_m_step_is_the_moments_of_what_is_believed() -> None:
    # Certain responsibilities and 5,000 people a prototype: the pseudo-person and the shrinking hardly matter.
    rng = np.random.default_rng(0)
    labels, centers = np.repeat([0, 1], 5000), np.array([[1.0, 0.0], [-1.0, 2.0]])
    points = centers[labels] + rng.normal(size=(10_000, 2)) * np.array([0.5, 1.0])
    joint = np.where(labels[:, None] == np.arange(2), 0.0, -50.0)
    means = np.repeat(points[:, None], 2, axis=1)
    doubt = np.stack([500.0 * np.eye(2)] * 2)  # a tenth for each of a prototype's people
    start = Prior(np.log([0.5, 0.5]), np.zeros((2, 2)), np.stack([np.eye(2)] * 2), np.zeros(2))
    fitted = m_step(start, Believed(joint, means, doubt))
    np.testing.assert_allclose(fitted.means, centers, atol=0.05)
    np.testing.assert_allclose(fitted.covariances, [np.diag([0.35, 1.1])] * 2, atol=0.08)
    np.testing.assert_allclose(np.exp(fitted.log_weights), 0.5, atol=1e-3)


def test_a_threshold_of_which_nothing_is_heard_stays_as_it_was() -> None:
    # Flip steps stretch rewards; a threshold without thumbs has no evidence that would ever shrink it back.
    crowd = simulate(AXES[:1, :2], (40,), 15, spread=0.5, flip_rate=0.1, seed=1)
    people = crowd.table().evidence_of(crowd.features, np.zeros(2))
    start = single_prior(people, np.zeros(2), 0.7)
    fitted, _ = run_em(people, start, 8, (0.0, 0.1, 0.2))
    assert fitted.flip_rate == 0.1
    assert fitted.means[0, -1] == pytest.approx(0.7)
    assert fitted.covariances[0, -1, -1] == pytest.approx(1.0, rel=1e-3)


def test_stretching_leaves_a_threshold_alone_unless_there_are_thumbs() -> None:
    thumb = Thumb(event_id="t", features=np.array([1.0, 0.0]), reference=np.zeros(2), value=1)
    for rows, grown in (([event()], (0.7, 1.0)), ([thumb], (1.4, 4.0))):
        start = single_prior(tabulate([rows]).evidence_of(np.eye(2), np.array([0.0, 1.0])), np.array([0.0, 1.0]), 0.7)
        stretched = start.stretched(2.0, 0.1)
        np.testing.assert_allclose(stretched.means[0], [0.0, 1.0, grown[0]])
        np.testing.assert_allclose(np.diagonal(stretched.covariances[0])[:2], 4.0 * start.covariances[0, 0, 0])
        assert stretched.covariances[0, -1, -1] == grown[1]
        assert stretched.flip_rate == 0.1


def test_people_without_events_keep_the_prior_and_weigh_nothing() -> None:
    start = single_prior(tabulate([[event()]]).evidence_of(np.eye(2), np.zeros(2)), np.zeros(2), 0.3)
    assert start.means[0, -1] == 0.3
    empty = tabulate([[event()], []]).evidence_of(np.eye(2), np.zeros(2))[1:]
    believed = e_step(empty, start, start.means)
    np.testing.assert_allclose(believed.joint, 0.0, atol=1e-9)
    np.testing.assert_allclose(believed.means[0], start.means)
    np.testing.assert_allclose(believed.doubt, start.covariances)


def event() -> Comparison:
    return Comparison(event_id="e", chosen=np.array([1.0, 0.0]), rejected=np.zeros(2))
