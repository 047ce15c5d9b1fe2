"""An unfinished training on disk: parameters, both moments of Adam, and the losses so far, in one safetensors file.

Written aside and renamed, so that a killed run finds one state or the other. Numbers only, nothing that could run.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from serve.jobs.adapt.training import Progress

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class FolderCheckpoints:
    """Keeps every so many steps, and the last one, in a folder: `serve.jobs.adapt.training.Checkpoints`."""

    def __init__(self, folder: Path, last: int, every: int = 10) -> None:
        """Take the folder, the number of steps in all, and from one state to the next."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / "training.safetensors"
        self._last, self._every = last, every

    def recall(self, parameters: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> Progress:
        """See the protocol."""
        if not self._path.exists():
            return Progress()
        with safe_open(self._path, framework="pt") as file, torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(file.get_tensor(name))
                optimizer.state[parameter] = {
                    moment: file.get_tensor(f"{moment}:{name}").to(parameter.device if moment != "step" else "cpu")
                    for moment in MOMENTS
                }
            said = json.loads(file.metadata()["progress"])
        return Progress(tuple(said["losses"]), tuple(said["accuracies"]))

    def keep(self, parameters: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """See the protocol."""
        if progress.num_steps % self._every and progress.num_steps != self._last:
            return
        tensors = {name: parameter.detach() for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            tensors |= {f"{moment}:{name}": optimizer.state[parameter][moment] for moment in MOMENTS}
        aside = self._path.with_name(f".{self._path.name}")
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
            aside,
            metadata={"progress": json.dumps(asdict(progress))},
        )
        aside.rename(self._path)
