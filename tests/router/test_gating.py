import numpy as np
import pytest

from router.gating import fit_gating, gate


def test_gate_is_affine_in_the_prompt() -> None:
    weights = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
    np.testing.assert_allclose(gate(weights, np.array([2.0, 1.0])), [0.5, 2.0])
    np.testing.assert_allclose(gate(weights, np.array([[2.0, 1.0], [0.0, 0.0]])), [[0.5, 2.0], [0.5, -1.0]])
    with pytest.raises(ValueError, match="must end in 2 numbers"):
        gate(weights, np.zeros(3))


def test_prompts_that_tell_prototypes_apart_are_learned() -> None:
    # 2,000 people whose prototype is drawn from a logistic of the prompt with slope 2; evidence is strong.
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=(2000, 1))
    second = rng.random(2000) < 1 / (1 + np.exp(-2.0 * prompts[:, 0]))
    log_evidence = np.where(np.column_stack([~second, second]), 0.0, -20.0)
    weights = fit_gating(prompts, log_evidence, np.log([0.5, 0.5]))
    slope, shift = weights[1] - weights[0]
    assert slope == pytest.approx(2.0, abs=0.2)
    assert shift == pytest.approx(0.0, abs=0.2)


def test_prompts_that_say_nothing_and_evidence_that_says_nothing_leave_the_gate_shut() -> None:
    prompts = np.random.default_rng(1).normal(size=(500, 2))
    np.testing.assert_allclose(fit_gating(prompts, np.zeros((500, 3)), np.log([0.2, 0.3, 0.5])), 0.0, atol=1e-6)


def test_the_fit_is_a_maximum_of_the_penalised_likelihood() -> None:
    rng = np.random.default_rng(2)
    prompts, log_evidence, log_pi = rng.normal(size=(50, 2)), 2.0 * rng.normal(size=(50, 3)), np.log([0.2, 0.3, 0.5])

    def value(weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        total = -0.5 * float((weights**2).sum())
        for prompt, evidence in zip(prompts, log_evidence, strict=True):
            shares = np.exp(log_pi + weights[:, :2] @ prompt + weights[:, 2])
            total += float(np.log(shares / shares.sum() @ np.exp(evidence)))
        return total

    best = fit_gating(prompts, log_evidence, log_pi)
    for _ in range(30):
        assert value(best + 0.02 * rng.normal(size=best.shape)) < value(best)
