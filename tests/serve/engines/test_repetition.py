from __future__ import annotations

import torch

from serve.engines.repetition import SaidTokens, penalise


def test_tokens_are_taken_in_once_and_as_they_come() -> None:
    said = SaidTokens(1.5)
    for output in ([], [7], [7, 3, 7], [7, 3, 7, -1], [7, 3, 7, 9, -1], [7, 3, 7, 9, 2]):
        said.read(output)
    assert list(said.tokens) == [7, 3, 9, 2]


def test_each_row_pays_for_its_own_tokens_alone() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0], [2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    first, silent, last = SaidTokens(2.0), SaidTokens(2.0), SaidTokens(1.25)
    first.read([0, 1, 0])
    last.read([2])
    penalise(logits, [(0, first), (1, silent), (3, last)])
    torch.testing.assert_close(
        logits, torch.tensor([[1.0, -4.0, 1.0], [2.0, -2.0, 1.0], [2.0, -2.0, 1.0], [2.0, -2.0, 0.8]])
    )
    first.read([0, 1, 0, 2])  # a view of the tokens would forbid their growth
    assert list(first.tokens) == [0, 1, 2]


def test_nothing_said_changes_nothing() -> None:
    logits = torch.ones(2, 3)
    penalise(logits, [])
    penalise(logits, [(1, SaidTokens(2.0))])
    assert (logits == 1.0).all()
