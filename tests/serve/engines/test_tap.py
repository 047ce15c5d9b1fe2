from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from serve.engines.tap import EagerTap, Step, Tap, decoder_layers, steer_and_sum

T, H, NUM_ROWS = 5, 8, 3
ROWS = np.array([[0, 1, 0, 0, 1], [0, 1, 2, 0, 1]])  # for steering, for summing
ALL_OWNED = np.array([[0, 1, 0, 1, 1], [1, 1, 2, 2, 0]])
UNIT = nn.functional.one_hot(torch.tensor(2), H).float()


class Layer(nn.Module):
    """Puts out the stream in two parts, as most of vLLM's layers do."""

    def forward(self, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return hidden * 2, residual + 1


class Whole(nn.Module):
    """Puts out the stream in one piece."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * 2


AnyTap = Tap | EagerTap
MakeTap = Callable[..., AnyTap]


def graph_tap(bank: Tensor, caps: Tensor) -> Tap:
    return Tap(16, bank, caps)


def bank_and_caps(length: float = 4.0, share: float = 10.0) -> tuple[Tensor, Tensor]:
    """Let row 1 own a vector."""
    bank, caps = torch.zeros(NUM_ROWS, H), torch.zeros(NUM_ROWS, 2)
    bank[1], caps[1] = UNIT, torch.tensor([length, share])
    return bank, caps


@pytest.fixture(params=[graph_tap, EagerTap])
def make_tap(request: pytest.FixtureRequest) -> MakeTap:
    def make(length: float = 4.0, share: float = 10.0) -> AnyTap:
        tap: AnyTap = request.param(*bank_and_caps(length, share))
        return tap

    return make


def begin(tap: AnyTap, rows: np.ndarray) -> None:
    tap.begin(Step.of(rows))


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(T, H, generator=generator).to(dtype) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_adds_to_its_rows_and_sums_what_was_there_before(make_tap: MakeTap, dtype: torch.dtype) -> None:
    layer, tap = Layer(), make_tap()
    hidden, residual = inputs(dtype)
    expected_hidden, expected_residual = layer(hidden, residual)
    stream = expected_hidden.float() + expected_residual.float()
    tap.attach(layer)
    begin(tap, ROWS)
    steered, kept = layer(hidden, residual)
    for token in (0, 2, 3):
        assert torch.equal(steered[token], expected_hidden[token])
    for token in (1, 4):
        torch.testing.assert_close(steered[token], (expected_hidden[token].float() + 4 * UNIT).to(dtype))
    assert torch.equal(kept, expected_residual)
    tap.end()
    torch.testing.assert_close(tap.sums[1], stream[1] + stream[4])
    torch.testing.assert_close(tap.sums[2], stream[2])


def test_the_length_is_limited_by_each_tokens_norm(make_tap: MakeTap) -> None:
    layer, tap = Whole(), make_tap(length=4.0, share=0.25)
    tap.attach(layer)
    begin(tap, np.array([[1, 1], [0, 0]]))
    hidden = torch.zeros(2, H)
    hidden[0, 0], hidden[1, 0] = 2.0, 100.0  # the layer doubles them: norms 4 and 200
    added = (layer(hidden) - hidden * 2).norm(dim=-1)
    torch.testing.assert_close(added, torch.tensor([1.0, 4.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unused_it_changes_no_bit(make_tap: MakeTap, dtype: torch.dtype) -> None:
    layer, tap = Layer(), make_tap()
    hidden, residual = inputs(dtype)
    expected = layer(hidden, residual)
    tap.attach(layer)
    got = layer(hidden, residual)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert not tap.sums.any()


def test_cleared_it_changes_nothing_again(make_tap: MakeTap) -> None:
    layer, tap = Layer(), make_tap()
    hidden, residual = inputs()
    expected = layer(hidden, residual)
    tap.attach(layer)
    begin(tap, np.ones((2, T), dtype=np.int64))
    assert not torch.equal(layer(hidden, residual)[0], expected[0])
    tap.end()
    summed = tap.sums[1:].clone()
    assert torch.equal(layer(hidden, residual)[0], expected[0])
    tap(*layer(hidden, residual))  # nor does the tap itself
    tap.end()
    assert torch.equal(tap.sums[1:], summed)


@pytest.mark.parametrize("rows", [ROWS, ALL_OWNED])
@pytest.mark.parametrize("steers", [True, False])
@pytest.mark.parametrize("sums_up", [True, False])
@pytest.mark.parametrize("is_whole", [True, False])
def test_what_is_left_out_makes_no_difference(
    make_tap: MakeTap, rows: np.ndarray, steers: bool, sums_up: bool, is_whole: bool
) -> None:
    """Tokens of nobody, and layers that are only steered or only read; a padding token is nobody's too."""
    tap = make_tap()
    both, dense_sums = inputs(), torch.zeros(NUM_ROWS, H)
    hidden, residual = (nn.functional.pad(states, (0, 0, 0, 1), value=1.0) for states in both)
    dense, rest = both[0].clone(), None if is_whole else both[1]
    steer_and_sum(dense, rest, torch.from_numpy(rows * [[steers], [sums_up]]), *bank_and_caps(), dense_sums)
    tap.use_for(steering=steers, summing=sums_up)
    begin(tap, rows)
    tap(hidden, None if is_whole else residual)
    hidden[:T].mul_(1.5)  # later layers write over it
    residual.zero_()
    tap.end()
    torch.testing.assert_close(hidden[:T], dense * 1.5)
    assert torch.equal(hidden[T], torch.full((H,), 1.0))
    torch.testing.assert_close(tap.sums[1:], dense_sums[1:])


def test_a_step_without_steered_tokens_is_only_summed(make_tap: MakeTap) -> None:
    tap = make_tap()
    hidden, residual = inputs()
    begin(tap, np.array([[0] * T, [1] * T]))
    before = hidden.clone()
    tap(hidden, residual)
    tap.end()
    assert torch.equal(hidden, before)
    torch.testing.assert_close(tap.sums[1], (hidden + residual).sum(dim=0))


@pytest.mark.parametrize("kind", [graph_tap, EagerTap])
def test_the_same_rows_in_another_step_may_have_other_vectors(kind: Callable[[Tensor, Tensor], AnyTap]) -> None:
    bank, caps = bank_and_caps()
    tap = kind(bank, caps)
    tap.use_for(steering=True, summing=False)
    for factor in (1.0, 0.5):
        bank[1] = UNIT * factor
        begin(tap, np.array([[1], [0]]))
        hidden = torch.ones(1, H)
        tap(hidden, torch.full((1, H), 100.0))
        tap.end()
        torch.testing.assert_close(hidden, 1 + 4 * factor * UNIT[None])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_it_survives_torch_compile() -> None:
    layer, tap = Layer(), graph_tap(torch.ones(NUM_ROWS, H), torch.ones(NUM_ROWS, 2))
    tap.attach(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled(*inputs())
    begin(tap, ROWS)
    expected, _ = layer(*inputs())
    summed = tap.sums.clone()
    tap.sums.zero_()
    steered, _ = compiled(*inputs())
    torch.testing.assert_close(steered, expected)
    torch.testing.assert_close(tap.sums[1:], summed[1:])


def test_the_decoder_layers_are_found_by_their_number() -> None:
    model = nn.Module()
    model.body = nn.ModuleList([nn.Linear(1, 1) for _ in range(3)])
    model.heads = nn.ModuleList([nn.Linear(1, 1) for _ in range(2)])
    assert decoder_layers(model, 3) is model.body
    model.tower = nn.ModuleList([nn.Linear(1, 1) for _ in range(3)])
    with pytest.raises(ValueError, match="exactly one"):
        decoder_layers(model, 3)
