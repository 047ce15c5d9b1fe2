from dataclasses import replace

import numpy as np

from router.held_out import GroupReport, choose_tempering, halves, report_groups, unpersonalized
from router.likelihood import concatenate, empty_evidence, encode
from router.types import Choice, Comparison, Evidence, Population


def population() -> Population:
    return Population(
        basis=np.eye(2),
        center=np.zeros(2),
        scale=np.ones(2),
        mixture_weights=np.array([0.5, 0.5]),
        means=np.array([[3.0, 0.0], [0.0, 3.0]]),
        covariances=0.1 * np.stack([np.eye(2)] * 2),
        base_weights=np.zeros(2),
        flip_rate=0.0,
    )


def person(prototype: int, count: int, noise: float, copies: int, seed: int) -> Evidence:
    """Comparisons by the prototype's taste, of which a share is random; each first half said several times over."""
    rng, model = np.random.default_rng(seed), population()
    rows = []
    for index in range(count):
        x = rng.normal(size=2)
        likes = x[prototype] > 0 if rng.random() > noise else rng.random() < 0.5
        event = Comparison(event_id=str(index), chosen=x if likes else -x, rejected=np.zeros(2))
        rows.append(encode(model, event if index % 2 else replace(event, weight=float(copies))))
    return concatenate(rows)


def test_the_worst_off_group_is_named() -> None:
    people = [person(0, 20, 0.0, 1, seed) for seed in range(12)] + [person(1, 20, 0.4, 1, 50 + s) for s in range(4)]
    people += [empty_evidence(3), person(0, 3, 0.0, 1, 99)]  # too short to tell
    report = report_groups(population(), people)
    np.testing.assert_allclose(report.shares, [0.75, 0.25])
    assert report.accuracy[0] > 0.97
    assert report.accuracy[1] < 0.9
    assert report.log_loss[1] > report.log_loss[0]
    assert report.worst == 1


def test_empty_groups_are_not_the_worst() -> None:
    report = report_groups(population(), [person(1, 20, 0.0, 1, 0)])
    assert np.isnan(report.accuracy[0])
    assert report.worst == 1
    nothing = report_groups(population(), [])
    np.testing.assert_array_equal(nothing.shares, 0.0)
    assert nothing.worst == 0
    assert GroupReport(np.ones(2) / 2, np.array([0.7, 0.6]), np.zeros(2)).worst == 1


def test_correlated_evidence_is_tempered_and_independent_evidence_is_not() -> None:
    # Evidence that counts every event six times deserves a sixth of its weight.
    broad = replace(population(), means=np.zeros((2, 2)), covariances=4.0 * np.stack([np.eye(2)] * 2))
    repeated = [person(seed % 2, 16, 0.7, 6, seed) for seed in range(40)]
    assert choose_tempering(broad, repeated, (1.0, 0.15)) == 0.15
    honest = [person(seed % 2, 16, 0.0, 1, seed) for seed in range(40)]
    assert choose_tempering(broad, honest, (1.0, 0.15)) == 1.0


def test_without_a_person_every_prototype_speaks_by_its_share() -> None:
    someone = person(0, 6, 0.0, 1, 7)
    odd = someone.designs[1::2, :2]
    expected = -np.log(0.5 / (1 + np.exp(-3 * odd[:, 0])) + 0.5 / (1 + np.exp(-3 * odd[:, 1])))
    np.testing.assert_allclose(unpersonalized(population(), someone).losses, expected, rtol=1e-6)
    _, known = halves(population(), someone)
    assert known.losses.shape == (3,)
    assert known.losses.mean() < expected.mean()


def test_a_choice_is_foretold_where_its_answer_was_likeliest() -> None:
    # The first prototype's people like the first feature: of .2, .1 and 0 they take the first, though rarely surely.
    model = replace(
        population(), means=np.array([[3.0, 0.0], [3.0, 0.0]]), covariances=1e-9 * np.stack([np.eye(2)] * 2)
    )
    answers = np.array([[0.2, 0.0], [0.1, 0.0], [0.0, 0.0]])
    choices = [
        Choice(event_id=str(number), chosen=answers[best], rejected=np.delete(answers, best, axis=0))
        for number, best in enumerate((0, 0, 0, 1))
    ]
    _, foretold = halves(model, concatenate([encode(model, choice) for choice in choices]))
    likely = np.exp(3.0 * answers[:, 0]) / np.exp(3.0 * answers[:, 0]).sum()
    np.testing.assert_allclose(foretold.said, likely[[0, 1]], rtol=1e-5)
    np.testing.assert_allclose(foretold.instead, likely[[1, 0]], rtol=1e-5)
    np.testing.assert_array_equal(foretold.hits, [1.0, 0.0])
    assert foretold.said[0] < 0.5
