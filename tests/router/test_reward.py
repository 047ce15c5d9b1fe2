import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from router.mixture import Floats
from router.reward import Rewards, score, score_many
from tests.router.test_mixture import draws, mixture

FEATURES = np.random.default_rng(3).normal(size=(5, 4))  # (N, D)


def brute_force(rewards: Floats, penalties: Floats) -> Floats:
    utility = rewards - penalties
    return np.asarray((utility > utility[:, :1]).mean(axis=0))


def test_moments_and_probabilities_against_monte_carlo() -> None:
    judge = mixture()
    rewards = score(FEATURES, judge)
    sample = draws(judge) @ FEATURES.T  # (S, N)
    np.testing.assert_allclose(rewards.mean, sample.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(rewards.std, sample.std(axis=0), atol=0.03)
    np.testing.assert_allclose(rewards.covariance, np.cov(sample.T), atol=0.1)
    penalties = np.array([0.2, 0.0, 1.0, 0.0, 0.5])
    for given_penalties, used in ((None, np.zeros(5)), (penalties, penalties)):
        prob = rewards.prob_over(0, given_penalties)
        assert prob[0] == pytest.approx(0.5)
        np.testing.assert_allclose(prob[1:], brute_force(sample, used)[1:], atol=0.005)


def test_torch_and_numpy_agree() -> None:
    judge = mixture()
    on_host = score(FEATURES, judge)
    on_device = score(torch.from_numpy(FEATURES), judge)
    np.testing.assert_allclose(on_device.component_means, on_host.component_means, rtol=1e-12)
    np.testing.assert_allclose(on_device.component_covs, on_host.component_covs, rtol=1e-12, atol=1e-12)
    half = score(torch.from_numpy(FEATURES).bfloat16(), judge)
    np.testing.assert_allclose(half.mean, on_host.mean, atol=0.05)


@pytest.mark.gpu
def test_scoring_on_the_accelerator_agrees() -> None:
    judge = mixture()
    on_device = score(torch.from_numpy(FEATURES).cuda(), judge)
    np.testing.assert_allclose(on_device.covariance, score(FEATURES, judge).covariance, rtol=1e-9, atol=1e-9)


def test_many_requests_score_as_one_by_one() -> None:
    judges = [mixture(seed) for seed in range(3)]
    features = np.random.default_rng(0).normal(size=(3, 5, 4))
    for together, alone in zip(
        score_many(features, judges), [score(f, j) for f, j in zip(features, judges, strict=True)], strict=True
    ):
        np.testing.assert_allclose(together.component_covs, alone.component_covs, atol=1e-12)
        np.testing.assert_allclose(together.mean, alone.mean, atol=1e-12)


@given(st.integers(0, 1000), st.floats(0.0, 3.0))
def test_a_penalty_lowers_only_its_own_candidate(seed: int, penalty: float) -> None:
    rewards = score(np.random.default_rng(seed).normal(size=(4, 4)), mixture(seed % 7))
    before, after = rewards.prob_over(0), rewards.prob_over(0, np.array([0.0, penalty, 0.0, 0.0]))
    assert after[1] <= before[1]
    np.testing.assert_array_equal(after[[0, 2, 3]], before[[0, 2, 3]])


def test_vetoes_reach_the_probabilities() -> None:
    rewards = score(FEATURES, mixture())
    vetoed = rewards.prob_over(0, np.array([0.0, np.inf, 0.0, 0.0, 0.0]))
    assert vetoed[1] == 0.0
    base_vetoed = rewards.prob_over(0, np.array([np.inf, np.inf, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(base_vetoed, [0.5, 0.5, 1.0, 1.0, 1.0])


def test_twins_of_the_base_are_as_good_as_the_base() -> None:
    rewards = score(np.stack([FEATURES[0], FEATURES[0]]), mixture())
    np.testing.assert_allclose(rewards.prob_over(0), [0.5, 0.5], atol=1e-6)


def test_nonsense_is_refused() -> None:
    judge = mixture()
    with pytest.raises(ValueError, match=r"\(R, N, D\)"):
        score_many(FEATURES[None], [])
    with pytest.raises(ValueError, match=r"\(R, N, D\)"):
        score_many(FEATURES, [judge] * 5)
    with pytest.raises(ValueError, match="same K"):
        score_many(np.zeros((2, 1, 4)), [judge, mixture(K=2)])
    with pytest.raises(ValueError, match="D = 3"):
        score(FEATURES[:, :3], judge)
    with pytest.raises(ValueError, match="base 5"):
        Rewards(np.ones(1), np.zeros((1, 2)), np.zeros((1, 2, 2))).prob_over(5)
