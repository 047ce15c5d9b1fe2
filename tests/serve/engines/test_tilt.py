from __future__ import annotations

import numpy as np
import pytest
import torch

from serve.engines.tilt import MAX_BIAS, TokenTilt
from serve.engines.worker_messages import TokenFeatures

FEATURES = TokenFeatures(
    np.array([4, 1, 2]),
    np.array([0.5, 0.3, 0.2], np.float32),
    np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -2.0]], np.float32),
)


@pytest.fixture
def tilt() -> TokenTilt:
    return TokenTilt(FEATURES, torch.device("cpu"))


def test_a_tilt_has_the_size_asked_for_over_plain_answers(tilt: TokenTilt) -> None:
    bias = tilt.bias((3.0, 0.0), 0.4)
    assert float(torch.sqrt(torch.from_numpy(FEATURES.shares) @ bias.square())) == pytest.approx(0.4)
    assert bias[0] == -bias[1] > 0
    assert bias[2] == 0.0
    torch.testing.assert_close(bias, tilt.bias((0.3, 0.0), 0.4))  # only where the coefficients point counts


def test_no_token_is_moved_by_more_than_the_limit(tilt: TokenTilt) -> None:
    assert tilt.bias((0.0, 1.0), 1.0).abs().max() == MAX_BIAS
    assert not tilt.bias((0.0, 0.0), 1.0).any()


def test_rows_are_moved_by_their_own_biases(tilt: TokenTilt) -> None:
    logits = torch.zeros(3, 6)
    tilt.add(logits, [2, 0], [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, 0.0, 0.5])])
    expected = torch.zeros(3, 6)
    expected[2, [4, 1, 2]] = torch.tensor([1.0, 2.0, 3.0])
    expected[0, [4, 2]] = torch.tensor([-1.0, 0.5])
    torch.testing.assert_close(logits, expected)
