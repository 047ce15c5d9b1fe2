from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from serve.engines.tap import Tap, attach, decoder_layers, steer_and_sum

T, H, NUM_ROWS = 5, 8, 3
ROWS = torch.tensor([[0, 1, 0, 0, 1], [0, 1, 2, 0, 1]])  # for steering, for summing
UNIT = nn.functional.one_hot(torch.tensor(2), H).float()


class Layer(nn.Module):
    """Puts out the stream in two parts, as most of vLLM's layers do."""

    def forward(self, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return hidden * 2, residual + 1


class Whole(nn.Module):
    """Puts out the stream in one piece."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * 2


def make_tap(length: float = 4.0, share: float = 10.0) -> Tap:
    bank, caps = torch.zeros(NUM_ROWS, H), torch.zeros(NUM_ROWS, 2)
    bank[1], caps[1] = UNIT, torch.tensor([length, share])
    return Tap(max_tokens=16, bank=bank, caps=caps)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(T, H, generator=generator).to(dtype) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_adds_to_its_rows_and_sums_what_was_there_before(dtype: torch.dtype) -> None:
    layer, tap = Layer(), make_tap()
    hidden, residual = inputs(dtype)
    expected_hidden, expected_residual = layer(hidden, residual)
    stream = expected_hidden.float() + expected_residual.float()
    attach(layer, tap)
    tap.set_rows(ROWS)
    steered, kept = layer(hidden, residual)
    for token in (0, 2, 3):
        assert torch.equal(steered[token], expected_hidden[token])
    for token in (1, 4):
        torch.testing.assert_close(steered[token], (expected_hidden[token].float() + 4 * UNIT).to(dtype))
    assert torch.equal(kept, expected_residual)
    torch.testing.assert_close(tap.sums[1], stream[1] + stream[4])
    torch.testing.assert_close(tap.sums[2], stream[2])


def test_the_length_is_limited_by_each_tokens_norm() -> None:
    layer, tap = Whole(), make_tap(length=4.0, share=0.25)
    attach(layer, tap)
    tap.set_rows(torch.tensor([[1, 1], [0, 0]]))
    hidden = torch.zeros(2, H)
    hidden[0, 0], hidden[1, 0] = 2.0, 100.0  # the layer doubles them: norms 4 and 200
    added = (layer(hidden) - hidden * 2).norm(dim=-1)
    torch.testing.assert_close(added, torch.tensor([1.0, 4.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unused_it_changes_no_bit(dtype: torch.dtype) -> None:
    layer, tap = Layer(), make_tap()
    hidden, residual = inputs(dtype)
    expected = layer(hidden, residual)
    attach(layer, tap)
    got = layer(hidden, residual)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert not tap.sums.any()


def test_cleared_it_changes_nothing_again() -> None:
    layer, tap = Layer(), make_tap()
    hidden, residual = inputs()
    expected = layer(hidden, residual)
    attach(layer, tap)
    tap.set_rows(torch.ones(2, T, dtype=torch.int64))
    assert not torch.equal(layer(hidden, residual)[0], expected[0])
    summed = tap.sums.clone()
    tap.clear_rows(T)
    assert torch.equal(layer(hidden, residual)[0], expected[0])
    tap(*layer(hidden, residual))  # nor does the op itself
    assert torch.equal(tap.sums, summed)


def test_tokens_of_nobody_make_no_difference() -> None:
    """What a CPU leaves out changes nothing elsewhere either."""
    tap = make_tap()
    tap.set_rows(ROWS)
    (hidden, residual), dense_sums = inputs(), torch.zeros(NUM_ROWS, H)
    dense = hidden.clone()
    steer_and_sum(dense, residual, ROWS, tap.bank, tap.caps, dense_sums)
    tap(hidden, residual)
    torch.testing.assert_close(hidden, dense)
    torch.testing.assert_close(tap.sums[1:], dense_sums[1:])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_it_survives_torch_compile() -> None:
    layer, tap = Layer(), make_tap()
    attach(layer, tap)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled(*inputs())
    tap.set_rows(ROWS)
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
