import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.pairwise import (
    Floats,
    PairwiseHead,
    fit_if_better,
    fit_pairwise,
    minimax_mixture,
    minimax_winner,
)

ROCK, SCISSORS = 0, 2


def _simulate(seed: int, num: int, skew_size: float) -> tuple[Floats, Floats, PairwiseHead]:
    """Comparisons of random items by a population whose preference is linear plus one rotation."""
    rng = np.random.default_rng(seed)
    truth = PairwiseHead(
        np.array([0.5, -0.3, 0.0, 0.2]), np.eye(4)[:, :2], skew_size * np.array([[0.0, 1.0], [-1.0, 0.0]])
    )
    a, b = rng.normal(size=(2, num, 4))
    za, zb = a @ truth.projection, b @ truth.projection
    logit = (a - b) @ truth.weights + np.einsum("mr,rs,ms->m", za, truth.skew, zb)
    wins = rng.uniform(size=num) < 1 / (1 + np.exp(-logit))
    return np.where(wins[:, None], a, b), np.where(wins[:, None], b, a), truth


def test_the_head_recovers_a_rotation() -> None:
    chosen, rejected, truth = _simulate(0, 4000, 1.5)
    head = fit_pairwise(chosen, rejected, rank=4)
    fresh = np.random.default_rng(1).normal(size=(50, 4))
    error = head.logits(fresh) - truth.logits(fresh)
    assert np.sqrt(np.mean(error**2)) < 0.3  # the truth's logits have a spread of about 1.7


def test_the_head_is_kept_only_where_it_predicts_better() -> None:
    for seed in range(3):
        chosen, rejected, _ = _simulate(seed, 800, 1.5)
        kept = fit_if_better(chosen, rejected, np.random.default_rng(0), rank=4)
        assert kept.head is not None
        assert kept.reward_log_loss - kept.head_log_loss > 2 * kept.standard_error
        chosen, rejected, _ = _simulate(seed, 800, 0.0)
        plain = fit_if_better(chosen, rejected, np.random.default_rng(0), rank=4)
        assert plain.head is None


def test_without_skew_it_is_a_reward() -> None:
    chosen, rejected, _ = _simulate(0, 500, 0.0)
    head = fit_pairwise(chosen, rejected, rank=0)
    logits = head.logits(chosen[:5])
    rewards = chosen[:5] @ head.weights
    np.testing.assert_allclose(logits, rewards[:, None] - rewards[None, :])
    assert minimax_winner(logits) == int(np.argmax(rewards))


def test_the_fit_is_the_optimum_of_its_own_loss() -> None:
    rng = np.random.default_rng(2)
    chosen, rejected = 30 * rng.normal(size=(2, 40, 3))  # far from unit scale, nearly separable
    head = fit_pairwise(chosen, rejected, rank=0, reward_ridge=0.1)
    difference = chosen - rejected
    scale = np.sqrt(np.mean(difference**2, axis=0))

    def loss(weights: Floats) -> float:
        return float(np.logaddexp(0, -difference @ weights).sum() + 0.05 * np.sum((weights * scale) ** 2))

    best = loss(head.weights)
    for direction in np.eye(3):
        for size in (1e-3, -1e-3):
            assert loss(head.weights + size * direction / scale) > best


def test_rock_paper_scissors() -> None:
    cycle = np.array([[0.0, -2.0, 2.0], [2.0, 0.0, -2.0], [-2.0, 2.0, 0.0]])
    np.testing.assert_allclose(minimax_mixture(cycle), np.full(3, 1 / 3), atol=1e-6)
    assert minimax_winner(cycle) == 0  # a perfect tie goes to the first, which is the base
    skewed = cycle.copy()
    skewed[ROCK, SCISSORS], skewed[SCISSORS, ROCK] = 4.0, -4.0
    mixture = minimax_mixture(skewed)
    worst = float(((1 / (1 + np.exp(-skewed)) - 0.5).T @ mixture).min())
    assert worst > -1e-3  # no candidate beats the mixture
    weak, strong = 1 / (1 + np.exp(-2.0)) - 0.5, 1 / (1 + np.exp(-4.0)) - 0.5
    exact = np.array([weak, strong, weak]) / (2 * weak + strong)  # a cycle: each is played as often as the others' duel
    np.testing.assert_allclose(mixture, exact, atol=1e-3)


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_a_condorcet_winner_is_always_picked(seed: int, num: int) -> None:
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(num, num))
    logits = half - half.T
    champion = int(rng.integers(num))
    logits[champion] = np.abs(logits[champion]) + 0.01
    logits[:, champion] = -logits[champion]
    logits[champion, champion] = 0.0
    assert minimax_winner(logits) == champion


def test_nonsense_is_refused() -> None:
    two = np.ones((2, 3))
    with pytest.raises(ValueError, match="chosen and rejected"):
        fit_pairwise(two, np.ones((3, 3)))
    with pytest.raises(ValueError, match="rank"):
        fit_pairwise(two, two, rank=4)
    with pytest.raises(ValueError, match="ridges"):
        fit_pairwise(two, two, rank=0, skew_ridge=0.0)
    with pytest.raises(ValueError, match="num_folds"):
        fit_if_better(two, two, np.random.default_rng(0), num_folds=3)
    with pytest.raises(ValueError, match="skew-symmetric"):
        PairwiseHead(np.zeros(2), np.eye(2), np.eye(2))
    with pytest.raises(ValueError, match="shapes"):
        PairwiseHead(np.zeros(2), np.eye(3), np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"\(N, N\)"):
        minimax_winner(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="skew-symmetric"):
        minimax_mixture(np.ones((2, 2)))
