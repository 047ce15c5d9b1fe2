import numpy as np
import pytest

from router.gating import fit_gating, gate


def test_fit_finds_which_prompts_belong_to_which_prototype() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([[2.0, 0.0, 0.3], [-2.0, 0.0, -0.3]])  # the second feature says nothing
    prompts = rng.normal(size=(2000, 2))
    logits = gate(truth, prompts)
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    members = (rng.random(2000) > chance[:, 0]).astype(int)
    log_evidence = np.where(members[:, None] == np.arange(2), 0.0, -4.0)
    fitted = fit_gating(prompts, log_evidence, np.log([0.5, 0.5]))
    contrast = fitted[0] - fitted[1]
    np.testing.assert_allclose(contrast, truth[0] - truth[1], atol=0.5)


def test_prompt_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="must end in 2 numbers"):
        gate(np.zeros((3, 3)), np.zeros(4))
