from __future__ import annotations

import numpy as np
import pytest
import torch

from serve.engines.sequence_states import IntArray, ScheduledTokens, SequenceStates
from serve.engines.steering_request import SteeringRequest

H, NUM_ROWS = 4, 3  # rows 1 and 2 can be owned
STEER = SteeringRequest((1.0,), pool=True)
POOL = SteeringRequest(pool=True)
VECTOR = torch.tensor([0.0, 3.0, 0.0, 4.0])


class Model:
    """A stand-in for the forward pass: the state of a token is its position in every component."""

    def __init__(self, max_finished: int = 8) -> None:
        self.bank = torch.zeros(NUM_ROWS, H)
        self.caps = torch.zeros(NUM_ROWS, 2)
        self.sums = torch.zeros(NUM_ROWS, H)
        self.states = SequenceStates(self.bank, self.caps, max_finished)
        self.states.pool_into([self.sums], max_finished)

    def step(self, *batch: tuple[str, int, int, int]) -> IntArray | None:
        """Run (id, prompt, start, tokens) and return the rows for steering."""
        tokens = [ScheduledTokens(*each) for each in batch]
        rows = self.states.assign(tokens)
        if rows is None:
            return None
        positions = np.concatenate([np.arange(t.start, t.start + t.num_tokens) for t in tokens])
        state = torch.from_numpy(positions).float()[:, None].expand(-1, H)
        self.sums.index_add_(0, torch.from_numpy(rows[1]), state)
        steered: IntArray = rows[0]
        return steered

    def read(self, sequence_id: str) -> tuple[int, float]:
        """Return the count and the mean position."""
        _, counts, means = self.states.read([sequence_id])
        assert (means == means[0, 0, 0]).all()
        return counts[0], float(means[0, 0, 0])


def test_only_generated_tokens_are_steered_and_summed() -> None:
    model = Model()
    model.states.start("a", STEER, VECTOR, 0.5)
    assert model.step(("a", 5, 0, 5)) is None
    assert model.read("a") == (0, 0.0)
    row = model.step(("a", 5, 5, 1))
    assert row is not None
    assert row.tolist() == [1]
    model.step(("a", 5, 6, 1))
    assert model.read("a") == (2, 5.5)
    torch.testing.assert_close(model.bank[1], VECTOR / 5)
    torch.testing.assert_close(model.caps[1], torch.tensor([5.0, 0.5]))


@pytest.mark.parametrize(("dose", "limit"), [(0.1, 0.1), (0.9, 0.5)])
def test_a_dose_replaces_the_length_and_is_limited(dose: float, limit: float) -> None:
    model = Model()
    model.states.start("a", SteeringRequest((1.0,), dose), VECTOR, max_dose=0.5)
    model.step(("a", 1, 1, 1))
    torch.testing.assert_close(model.caps[1], torch.tensor([float("inf"), limit]))


def test_the_rows_of_last_time_come_again_until_one_changes_hands() -> None:
    model = Model()
    model.states.start("a", STEER, VECTOR, 0.5)
    first, again = (model.states.assign([ScheduledTokens("a", 1, start, 1)]) for start in (1, 2))
    assert first is again
    model.states.finish("a")
    model.states.start("b", STEER, -VECTOR, 0.5)
    other = model.states.assign([ScheduledTokens("b", 1, 1, 1)])
    assert other is not None
    assert other is not first
    assert other.tolist() == [[1], [1]]
    assert model.states.assign([ScheduledTokens("b", 1, 2, 1)]) is other


def test_rows_of_a_mixed_batch() -> None:
    model = Model()
    model.states.start("steered", STEER, VECTOR, 0.5)
    model.states.start("pooled", POOL, None, 0.5)
    rows = model.states.assign(
        [
            ScheduledTokens("plain", 2, 0, 2),
            ScheduledTokens("steered", 3, 1, 4),
            ScheduledTokens("", 1, 7, 1),
            ScheduledTokens("pooled", 3, 3, 1),
        ]
    )
    assert rows is not None
    assert rows[0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    assert rows[1].tolist() == [0, 0, 0, 0, 1, 1, 0, 2]


def test_recomputed_positions_are_steered_again_and_counted_once() -> None:
    model = Model()
    model.states.start("a", STEER, VECTOR, 0.5)
    for position in range(4, 8):
        model.step(("a", 4, position, 1))
    before = model.read("a")
    assert before == (4, 5.5)
    steered = model.step(("a", 4, 0, 6))  # preempted; its prompt and answer come again, in chunks
    assert steered is not None
    assert steered.tolist() == [0, 0, 0, 0, 1, 1]
    assert model.read("a") == before
    model.step(("a", 4, 6, 3))
    assert model.read("a") == (5, 6.0)


def test_a_finished_sequence_returns_its_row_and_keeps_its_sum() -> None:
    model = Model()
    model.states.start("a", STEER, VECTOR, 0.5)
    model.step(("a", 1, 1, 3))
    model.states.finish("a")
    assert model.read("a") == (3, 2.0)
    assert (model.states.num_live, model.states.num_rows_used, model.states.num_finished) == (0, 0, 1)
    assert not model.bank.any()
    assert not model.caps.any()
    assert not model.sums[1:].any()
    model.states.forget(["a", "never seen"])
    assert model.states.read(["a"])[0] == []


def test_the_next_owner_of_a_row_starts_from_zero() -> None:
    model = Model()
    for name in ("a", "b", "c"):
        model.states.start(name, POOL, None, 0.5)
        model.step((name, 1, 4, 1))
        assert model.read(name) == (1, 4.0)
        model.states.finish(name)


def test_finished_sums_are_kept_for_a_bounded_while() -> None:
    model = Model(max_finished=2)
    for name in ("a", "b", "c"):
        model.states.start(name, POOL, None, 0.5)
        model.states.finish(name)
    assert model.states.read(["a", "b", "c"])[0] == ["b", "c"]


def test_what_was_forgotten_in_flight_is_not_kept_at_the_end() -> None:
    model = Model()
    model.states.start("a", STEER, VECTOR, 0.5)
    model.step(("a", 1, 1, 1))
    model.states.forget(["a"])
    steered = model.step(("a", 1, 2, 1))
    assert steered is not None
    assert steered.tolist() == [1]
    model.states.finish("a")
    assert model.states.num_finished == 0
    assert model.states.read(["a"])[0] == []


def test_without_pooling_nothing_is_kept() -> None:
    model = Model()
    model.states.start("a", SteeringRequest((1.0,)), VECTOR, 0.5)
    model.step(("a", 1, 1, 1))
    assert model.states.read(["a"])[0] == []
    model.states.finish("a")
    assert model.states.num_finished == 0


def test_a_preempted_sequence_lends_its_row() -> None:
    model = Model()
    for name in ("a", "b", "c"):
        model.states.start(name, STEER, VECTOR, 0.5)
    model.step(("a", 1, 1, 2), ("b", 1, 1, 1))
    model.step(("b", 1, 2, 1), ("c", 1, 1, 1))  # two rows for three sequences
    assert model.read("a") == (2, 1.5)
    model.step(("a", 1, 3, 1), ("c", 1, 2, 1))
    assert model.read("a") == (3, 2.0)
    assert model.read("b") == (2, 1.5)
    assert model.read("c") == (2, 1.5)
    torch.testing.assert_close(model.bank[1:], (VECTOR / 5).expand(2, H))
    for name in ("a", "b", "c"):
        model.states.finish(name)
    assert model.states.num_rows_used == 0
    assert model.read("b") == (2, 1.5)


def test_an_id_in_flight_is_not_taken_twice() -> None:
    model = Model()
    model.states.start("a", POOL, None, 0.5)
    with pytest.raises(ValueError, match="own id"):
        model.states.start("a", POOL, None, 0.5)


def test_layers_change_only_between_sequences() -> None:
    model = Model()
    model.states.start("a", POOL, None, 0.5)
    model.states.pool_into([model.sums], 8)
    with pytest.raises(ValueError, match="drain"):
        model.states.pool_into([torch.zeros(NUM_ROWS, H)], 8)
    model.states.finish("a")
    model.states.pool_into([model.sums, torch.zeros(NUM_ROWS, H)], 8)
    assert model.states.num_finished == 0  # sums over other layers would be misread
