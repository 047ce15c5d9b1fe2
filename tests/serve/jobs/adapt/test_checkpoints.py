"""A training that is killed and resumed gives the very same adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from serve.jobs.adapt.checkpoints import FolderCheckpoints
from serve.jobs.adapt.training import Progress, add_adapter, train
from tests.serve.jobs.adapt.cases import ADAPTED, CONFIG, Forgetful, pairs, tiny_llama


class Killed(Exception):
    """Stands for the end of the process."""


def run(folder: Path, kill_after: int | None) -> tuple[dict[str, torch.Tensor], Progress, list[int]]:
    """Train from scratch or from what is in the folder."""
    tuned = add_adapter(tiny_llama(), ADAPTED, CONFIG)
    steps: list[int] = []

    def stepped(progress: Progress) -> None:
        steps.append(progress.num_steps)
        if progress.num_steps == kill_after:
            raise Killed

    checkpoints = FolderCheckpoints(folder, CONFIG.steps, every=3)
    progress = train(tuned, pairs(), CONFIG, checkpoints, stepped)
    return {name: one.detach() for name, one in tuned.named_parameters() if one.requires_grad}, progress, steps


def test_a_resumed_training_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    whole, losses, _ = run(tmp_path / "whole", None)
    with pytest.raises(Killed):
        run(tmp_path / "killed", 8)
    resumed, again, steps = run(tmp_path / "killed", None)
    assert steps[0] == 7  # the state of step 6 was kept
    assert again == losses
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_training_takes_no_step_again(tmp_path: Path) -> None:
    whole, losses, _ = run(tmp_path, None)
    recalled, again, steps = run(tmp_path, None)
    assert (again, steps) == (losses, [])
    assert all(torch.equal(whole[name], recalled[name]) for name in whole)


def test_only_tensors_are_kept_and_by_the_owner_alone(tmp_path: Path) -> None:
    run(tmp_path / "work", None)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["training.safetensors"]
    assert (tmp_path / "work").stat().st_mode & 0o777 == 0o700
    assert Forgetful().recall({}, torch.optim.AdamW([torch.zeros(1)])) == Progress()
