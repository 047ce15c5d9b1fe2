"""Simulated people of the population."""

from __future__ import annotations

import numpy as np

from serve.jobs.learning.people import PeopleConfig, draw_tastes, judge, utilities


def test_tastes_have_length_one_and_both_kinds() -> None:
    weights = draw_tastes(400, np.ones(10), 0.5, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(weights, axis=1), 1.0)
    cared = (weights != 0).sum(axis=1)
    assert set(cared) == {2, 3, 4, 10}
    assert 0.4 < np.mean(cared == 10) < 0.6


def test_judgements_follow_utility_with_the_flips_asked_for() -> None:
    rng = np.random.default_rng(1)
    prompts = np.repeat(np.arange(10), 6)
    values = rng.normal(size=(60, 4))
    config = PeopleConfig(num_people=200, num_events=30, thumb_share=0.5, sharpness=1e4, flip_rate=0.1)
    weights = draw_tastes(config.num_people, np.ones(4), config.dense_share, rng)
    liking = utilities(values, weights)
    table = judge(rng.normal(size=(60, 3)), prompts, liking, config, rng)
    assert table.features.shape == (70, 3)
    np.testing.assert_allclose(table.features[60], table.features[:6].mean(axis=0))
    is_pair = table.thresholds == 0
    assert 0.45 < is_pair.mean() < 0.55
    people, plus, minus = table.people[is_pair], table.plus[is_pair], table.minus[is_pair]
    assert (prompts[plus] == prompts[minus]).all()
    right = np.mean(liking[people, plus] > liking[people, minus])
    assert abs(right - 0.9) < 0.02
