import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.selection import (
    CandidateStats,
    Floats,
    GuardLimits,
    Reason,
    choose,
    degeneracy,
    guard_penalties,
    halving_schedule,
    keep_base,
    saturated,
    survivors,
)

SCORES = st.lists(st.one_of(st.floats(-10, 10), st.just(-math.inf)), min_size=1, max_size=9)


def _arrays(scores: list[float], seed: int = 0) -> tuple[Floats, Floats]:
    return np.array(scores), np.random.default_rng(seed).uniform(size=len(scores))


def test_degeneracy_of_plain_text_is_zero_and_of_a_loop_near_one() -> None:
    assert degeneracy(range(300)) == 0.0
    assert degeneracy([7] * 300) == 1.0
    assert degeneracy([1, 2, 3] * 100) == pytest.approx(1.0, abs=0.01)
    assert degeneracy([]) == degeneracy([1]) == degeneracy([5] * 4) == 0.0


def test_degeneracy_sees_a_loop_that_starts_late() -> None:
    tokens = [*range(1000), *([1, 2] * 32)]
    assert degeneracy(tokens) > 0.9
    assert degeneracy([*range(1000), *([1, 2] * 8)]) < 0.25  # a short echo is no loop


@given(st.lists(st.integers(0, 5), max_size=200))
def test_degeneracy_is_a_share(tokens: list[int]) -> None:
    assert 0.0 <= degeneracy(tokens) <= 1.0


def _stats(num_tokens: int = 100, **changes: float | bool | None) -> CandidateStats:
    values = {"degeneracy": 0.0, "is_truncated": False, "prompt_similarity": 0.6} | changes
    return CandidateStats(
        num_tokens,
        float(values["degeneracy"] or 0.0),
        bool(values["is_truncated"]),
        values["prompt_similarity"],
    )


def test_repetition_beyond_the_base_s_costs() -> None:
    limits = GuardLimits()
    plain, some, much = (CandidateStats(100, share) for share in (0.0, 0.1, 0.3))
    assert guard_penalties([plain, some, much], limits).tolist() == pytest.approx([0.0, 0.0, 2.0])
    assert guard_penalties([CandidateStats(100, 0.25), some, much], limits).tolist() == pytest.approx([0.0, 0.0, 0.5])


def test_a_candidate_like_the_base_is_not_penalised() -> None:
    penalties = guard_penalties([_stats(), _stats(199), _stats(10), _stats(prompt_similarity=0.5)], GuardLimits())
    np.testing.assert_array_equal(penalties, np.zeros(4))


def test_each_guard_bites_where_it_should() -> None:
    limits = GuardLimits()
    stats = [
        _stats(),
        _stats(round(200 * math.e)),
        _stats(is_truncated=True),
        _stats(prompt_similarity=0.2),
        _stats(degeneracy=0.5),
        _stats(prompt_similarity=None),
    ]
    penalties = guard_penalties(stats, limits)
    assert penalties[0] == 0.0
    assert penalties[1] == pytest.approx(limits.length_penalty, abs=0.01)  # one factor e beyond twice the base
    assert penalties[2] == limits.truncation_penalty
    assert penalties[3] == pytest.approx(limits.similarity_penalty * (0.4 - limits.free_similarity_drop))
    assert penalties[4] == math.inf
    assert penalties[5] == 0.0


def test_a_tiny_base_answer_does_not_make_every_sentence_long() -> None:
    assert guard_penalties([_stats(1), _stats(32)], GuardLimits())[1] == 0.0
    assert guard_penalties([_stats(0), _stats(0)], GuardLimits()).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_degeneracy", 0.0),
        ("free_degeneracy", 1.5),
        ("free_length_ratio", 0.9),
        ("min_length_tokens", 0),
        ("length_penalty", -1.0),
    ],
)
def test_limits_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"must|never"):
        GuardLimits(**{field: value})  # type: ignore[arg-type]


def test_statistics_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="num_tokens"):
        CandidateStats(-1, 0.0)
    with pytest.raises(ValueError, match="degeneracy"):
        CandidateStats(1, 1.5)
    with pytest.raises(ValueError, match="base 2"):
        guard_penalties([_stats()], GuardLimits(), base=2)


def test_gains_saturate_and_losses_do_not() -> None:
    gains = np.array([-1e4, -3.0, -0.01, 0.0, 0.01, 3.0, 6.0, 1e4])
    scores = saturated(gains)
    assert (np.diff(scores) >= 0).all()  # the order stays
    assert scores[3] == 0.0
    np.testing.assert_allclose(scores[[2, 4]], gains[[2, 4]], rtol=0.01)  # small gains count as they are
    assert scores.max() <= 2 * math.log(2)
    assert scores[0] == pytest.approx(-2e4, rel=0.01)


def test_a_taste_far_out_does_not_outvote_a_guard() -> None:
    """Twice the reward does not make up for an answer of which a quarter repeats itself."""
    gains, penalties = (
        np.array([0.0, 4.0, 8.0]),
        guard_penalties([_stats(), _stats(), _stats(degeneracy=0.25)], GuardLimits()),
    )
    sure = np.array([0.5, 0.99, 0.99])
    assert choose(saturated(gains) - penalties, sure, 0.6).winner == 1
    assert choose(gains - penalties, sure, 0.6).winner == 2


def test_the_gate_holds_the_base() -> None:
    scores, prob = np.array([0.0, 1.0, 2.0]), np.array([0.5, 0.8, 0.6])
    assert (choose(scores, prob, 0.7).winner, choose(scores, prob, 0.7).reason) == (1, Reason.REWARD)
    assert choose(scores, prob, 0.6).winner == 2
    held = choose(scores, prob, 0.9)
    assert (held.winner, held.reason) == (0, Reason.GATE)
    assert held.prob_over_base == 0.6  # the best challenger's
    assert choose(-scores, prob, 0.5).reason is Reason.BASE_BEST


def test_ties_go_to_the_base_wherever_it_stands() -> None:
    choice = choose(np.zeros(3), np.ones(3), 0.5, base=2, num_best=3)
    assert choice.order == (2, 0, 1)
    assert choice.reason is Reason.BASE_BEST


def test_vetoes() -> None:
    off = -math.inf
    alone = choose(np.array([off, -3.0, off]), np.zeros(3), 0.9)
    assert (alone.winner, alone.reason) == (1, Reason.BASE_VETOED)  # a degenerate base has no gate
    everyone = choose(np.full(3, off), np.ones(3), 0.5, num_best=2)
    assert (everyone.order, everyone.reason) == ((0, 1), Reason.ALL_VETOED)
    assert choose(np.array([0.0, off]), np.ones(2), 0.5, num_best=2).order == (0, 1)


def test_one_candidate_is_served() -> None:
    assert choose(np.zeros(1), np.zeros(1), 0.5).order == (0,)
    assert choose(np.zeros(1), np.zeros(1), 0.5).prob_over_base == 0.5


@given(SCORES, st.integers(0, 99), st.floats(0.5, 1.0), st.floats(0.5, 1.0), st.data())
def test_raising_the_gate_never_unseats_the_base(
    scores: list[float], seed: int, gate_a: float, gate_b: float, data: st.DataObject
) -> None:
    base = data.draw(st.integers(0, len(scores) - 1))
    array, prob = _arrays(scores, seed)
    low, high = (choose(array, prob, gate, base=base) for gate in sorted((gate_a, gate_b)))
    if low.winner == base:
        assert high.winner == base
    if low.reason is Reason.REWARD:
        assert array[low.winner] > array[base]


@given(SCORES, st.integers(0, 99), st.data())
def test_n_best_are_distinct_and_ordered(scores: list[float], seed: int, data: st.DataObject) -> None:
    num_best = data.draw(st.integers(1, len(scores)))
    array, prob = _arrays(scores, seed)
    order = choose(array, prob, 0.6, num_best=num_best).order
    assert len(order) == len(set(order)) == num_best
    rest = array[list(order[1:])]
    assert all(a >= b for a, b in itertools.pairwise(rest))


def test_choose_refuses_nonsense() -> None:
    two = np.zeros(2)
    with pytest.raises(ValueError, match="gate"):
        choose(two, two, 0.4)
    with pytest.raises(ValueError, match="score"):
        choose(np.array([0.0, math.nan]), two, 0.5)
    with pytest.raises(ValueError, match="score"):
        choose(two, np.zeros(3), 0.5)
    with pytest.raises(ValueError, match="base"):
        choose(two, two, 0.5, base=2)
    with pytest.raises(ValueError, match="num_best"):
        choose(two, two, 0.5, num_best=3)


def test_keep_base_serves_in_plan_order() -> None:
    choice = keep_base(4, base=1, num_best=3)
    assert (choice.order, choice.reason, choice.prob_over_base) == ((1, 0, 2), Reason.NO_TASTE, 0.5)


def test_the_schedule_of_eight() -> None:
    assert halving_schedule(8, (16, 32, 64)) == ((16, 4), (32, 2), (64, 1))
    assert halving_schedule(1, (16, 32, 64)) == ()
    assert halving_schedule(8, (16, 32), num_best=2) == ((16, 4), (32, 2))
    assert halving_schedule(8, ()) == ()


@given(st.integers(1, 32), st.lists(st.integers(1, 512), unique=True, min_size=1, max_size=5), st.data())
def test_schedules_fall_to_the_number_wanted(num_arms: int, checkpoints: list[int], data: st.DataObject) -> None:
    num_best = data.draw(st.integers(1, num_arms))
    schedule = halving_schedule(num_arms, sorted(checkpoints), num_best)
    counts = [num_arms, *(n for _, n in schedule)]
    assert all(a > b for a, b in itertools.pairwise(counts))
    assert counts[-1] == num_best


def test_schedules_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="rising"):
        halving_schedule(4, (16, 16))
    with pytest.raises(ValueError, match="num_best"):
        halving_schedule(4, (16,), num_best=5)


def test_the_base_survives_until_a_challenger_passes_the_gate() -> None:
    scores, prob = np.array([-1.0, 0.5, 1.0, 0.7]), np.array([0.5, 0.6, 0.65, 0.6])
    assert survivors(scores, prob, 0.7, 2) == (0, 2)
    assert survivors(scores, prob, 0.6, 2) == (2, 3)
    assert survivors(scores, prob, 0.7, 1) == (0,)
    assert survivors(scores, prob, 0.7, 2, base=None) == (2, 3)


def test_eight_to_one_in_three_rounds() -> None:
    rng = np.random.default_rng(4)
    scores, prob = rng.normal(size=8), np.full(8, 0.99)
    running, base = list(range(8)), 0
    for _, num_keep in halving_schedule(8, (16, 32, 64)):
        at = running.index(base) if base in running else None
        kept = survivors(scores[running], prob[running], 0.6, num_keep, base=at)
        running = [running[i] for i in kept]
    assert running == [int(np.argmax(scores))]


@given(SCORES, st.integers(0, 99), st.floats(0.5, 1.0), st.data())
def test_survivors_count_and_agree_with_the_final_choice(
    scores: list[float], seed: int, gate: float, data: st.DataObject
) -> None:
    num_keep = data.draw(st.integers(1, len(scores)))
    array, prob = _arrays(scores, seed)
    kept = survivors(array, prob, gate, num_keep)
    assert len(set(kept)) == num_keep
    assert choose(array, prob, gate).winner in kept


def test_survivors_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="num_keep"):
        survivors(np.zeros(2), np.zeros(2), 0.5, 3)
