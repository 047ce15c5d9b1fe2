"""Robust DPO on a tiny random Llama: against numbers worked out by hand, and what training does and leaves alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from serve.jobs.adapt.training import (
    Tokens,
    TrainingConfig,
    add_adapter,
    answer_logprobs,
    margins,
    robust_loss,
    train,
)
from tests.serve.jobs.adapt.cases import ADAPTED, CONFIG, Forgetful, pairs, tiny_llama


def ignore(_: object) -> None:
    pass


def test_the_loss_is_what_the_paper_says() -> None:
    # margin 0: ln 2 whatever the flip rate; margin ln 3: -ln σ = ln(4/3), -ln(1 - σ) = ln 4
    clean, noisy = (
        robust_loss(torch.tensor([0.0, math.log(3.0)]), 0.0),
        robust_loss(torch.tensor([0.0, math.log(3.0)]), 0.2),
    )
    assert clean.tolist() == pytest.approx([math.log(2.0), math.log(4.0 / 3.0)], abs=1e-6)
    by_hand = (0.8 * math.log(4.0 / 3.0) - 0.2 * math.log(4.0)) / 0.6
    assert noisy.tolist() == pytest.approx([math.log(2.0), by_hand], abs=1e-6)


def test_over_flipped_labels_the_loss_is_the_clean_one() -> None:
    margin = torch.linspace(-3.0, 3.0, 13)
    expected = 0.7 * robust_loss(margin, 0.3) + 0.3 * robust_loss(-margin, 0.3)
    assert torch.allclose(expected, robust_loss(margin, 0.0), atol=1e-6)


def test_answers_are_as_probable_as_one_token_after_the_other() -> None:
    model, prompt, answers = tiny_llama().eval(), (1, 2, 3), [(4, 5), (6, 7, 8, 9)]
    with torch.no_grad():
        found = answer_logprobs(model, prompt, answers)
        for answer, total in zip(answers, found.tolist(), strict=True):
            said = list(prompt)
            by_hand = 0.0
            for token in answer:
                by_hand += float(model(torch.tensor([said])).logits[0, -1].log_softmax(dim=-1)[token])
                said.append(token)
            assert total == pytest.approx(by_hand, abs=1e-4)


def test_an_adapter_starts_as_no_change_above_the_layers_that_are_read() -> None:
    plain = tiny_llama().eval()
    tuned = add_adapter(tiny_llama(), ADAPTED, CONFIG).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(tuned(ids).logits, plain(ids).logits)
    trained = {name for name, one in tuned.named_parameters() if one.requires_grad}
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in trained} == set(ADAPTED)
    assert {name.split(".")[-4] for name in trained} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }


def test_training_learns_unseen_pairs_and_leaves_the_base_alone() -> None:
    model = tiny_llama()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    tuned = add_adapter(model, ADAPTED, CONFIG)
    progress = train(tuned, pairs(), CONFIG, Forgetful(), ignore)
    assert progress.losses[0] == pytest.approx(math.log(2.0), abs=1e-5)
    assert np.mean(progress.losses[-3:]) < 0.55
    unseen = pairs(24, seed=9)
    assert (margins(tuned, unseen, CONFIG.beta) > 0.0).mean() >= 0.75
    base = tuned.unload().state_dict()
    assert all(torch.equal(base[name], one) for name, one in before.items())


def test_what_is_read_below_the_adapter_does_not_move() -> None:
    ids = torch.tensor([[1, 2, 3, 4]])
    tuned = add_adapter(tiny_llama(), ADAPTED, CONFIG)
    train(tuned, pairs(), CONFIG, Forgetful(), ignore)
    plain = tiny_llama().eval()(ids, output_hidden_states=True).hidden_states
    adapted = tuned(ids, output_hidden_states=True).hidden_states
    assert all(torch.equal(plain[i], adapted[i]) for i in range(ADAPTED[0] + 1))
    assert not torch.equal(plain[-1], adapted[-1])


def test_the_same_seed_trains_the_same_adapter() -> None:
    def trained(config: TrainingConfig) -> dict[str, torch.Tensor]:
        tuned = add_adapter(tiny_llama(), ADAPTED, config)
        train(tuned, pairs(), config, Forgetful(), ignore)
        return {name: one.detach() for name, one in tuned.named_parameters() if one.requires_grad}

    config = replace(CONFIG, steps=4)
    first, again, other = trained(config), trained(config), trained(replace(config, seed=1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_weights_decide_between_pairs_that_contradict_each_other() -> None:
    one, two = (4, 6, 8), (5, 7, 9)
    for weight, is_first in ((5.0, True), (0.2, False)):
        tuned = add_adapter(tiny_llama(), ADAPTED, CONFIG)
        told = [Tokens((1, 2), one, two, weight), Tokens((1, 2), two, one, 1.0)] * 4
        train(tuned, told, replace(CONFIG, flip_rate=0.0), Forgetful(), ignore)
        assert (margins(tuned, told[:1], 1.0)[0] > 0.0) == is_first


def test_wrong_settings_and_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="flip_rate"):
        TrainingConfig(flip_rate=0.5)
    with pytest.raises(ValueError, match="above 0"):
        TrainingConfig(steps=0)
    with pytest.raises(ValueError, match="no pairs"):
        train(add_adapter(tiny_llama(), ADAPTED, CONFIG), [], CONFIG, Forgetful(), ignore)
