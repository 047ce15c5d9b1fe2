import numpy as np
import pytest

from router.types import Array
from serve.jobs.few_shot import unseen
from serve.jobs.few_shot.data import Index
from serve.jobs.few_shot.features import Inputs, make_inputs
from serve.jobs.few_shot.unseen import HALF_SURE, foretell

N = 40


def case() -> tuple[Inputs, Index, Array]:
    """Forty texts, the last eight cold, one without a label; values are linear in the text up to noise."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, 4))
    inputs = make_inputs(features, np.arange(N) % 2, np.arange(N) >= 32)
    first = np.repeat(np.arange(31), 5)
    rows = np.column_stack([first, (first + 1) % 31, np.zeros_like(first)])
    values = np.vstack([features @ rng.normal(size=(4, 2)) + 0.1 * rng.normal(size=(N, 2)), np.zeros((1, 2))])
    return inputs, rows.astype(np.int64), values


def test_judged_texts_keep_their_values_and_unseen_ones_are_foretold() -> None:
    inputs, rows, values = case()
    foretold = foretell(inputs, rows, values)
    np.testing.assert_array_equal(foretold[:31], values[:31])
    np.testing.assert_array_equal(foretold[N], 0.0)
    errors = (foretold[31:N] - values[31:N]).std() / values[31:N].std()
    assert errors < 0.2  # noise is 5 % of the spread
    changed = values.copy()
    changed[31:N] = 99.0
    np.testing.assert_array_equal(foretell(inputs, rows, changed), foretold)


def test_width_and_strength_are_those_of_the_smallest_leave_one_out_error(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, rows, values = case()
    chosen = foretell(inputs, rows, values)[31:N]
    counts = np.bincount(rows[:, :2].ravel(), minlength=N)[:31]
    weights = counts / (counts + HALF_SURE)
    weights /= weights.mean()
    X = inputs.foretelling[:31]
    distances = ((X[:, None] - X) ** 2).sum(axis=2)
    distances /= distances.mean()
    centred = values[:31] - weights @ values[:31] / 31
    pairs = [(width, strength) for width in unseen.WIDTHS for strength in unseen.STRENGTHS]
    errors: list[Array] = []
    for width, strength in pairs:
        kernel = np.exp(-width * distances)
        misses: list[Array] = []
        for left_out in range(31):
            others = np.arange(31) != left_out
            noise = np.diag(strength / weights[others])
            solved = np.linalg.solve(kernel[np.ix_(others, others)] + noise, centred[others])
            misses.append(np.sqrt(weights[left_out]) * (centred[left_out] - kernel[left_out, others] @ solved))
        errors.append((np.array(misses) ** 2).sum(axis=0))
    for column, best in enumerate(np.argmin(errors, axis=0)):
        monkeypatch.setattr(unseen, "WIDTHS", pairs[best][:1])
        monkeypatch.setattr(unseen, "STRENGTHS", np.array(pairs[best][1:]))
        np.testing.assert_allclose(foretell(inputs, rows, values)[31:N, column], chosen[:, column])
