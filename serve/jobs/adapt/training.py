"""Direct preference optimization of a LoRA, with correction for labels given the wrong way round.

Loss of a pair (DPO, Rafailov et al. 2023, eq. 7; robust DPO, Chowdhury et al. 2024, eq. 12), with margin
h = β·[log π(y⁺)/π₀(y⁺) − log π(y⁻)/π₀(y⁻)] summed over tokens and flip rate ε:
((1 − ε)·(−log σ(h)) − ε·(−log σ(−h))) / (1 − 2ε), which over flipped labels has the expectation of the clean loss.
Torch and PEFT alone. Knows nothing of people, prototypes or artifacts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import logsigmoid

WARMUP_SHARE = 0.1  # of the steps
NO_PADDING = 0


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How an adapter is trained."""

    rank: int = 8
    alpha: float = 16.0
    steps: int = 60
    batch_size: int = 8  # pairs a step
    beta: float = 0.1
    flip_rate: float = 0.05
    learning_rate: float = 5e-4
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.flip_rate < 0.5:
            raise ValueError(f"flip_rate must be in [0, 0.5), but is {self.flip_rate}")
        if min(self.rank, self.steps, self.batch_size) < 1 or min(self.beta, self.learning_rate, self.alpha) <= 0.0:
            raise ValueError("rank, steps, batch_size, alpha, beta and learning_rate must be above 0")


@dataclass(frozen=True, slots=True)
class Tokens:
    """One pair as token ids."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What training has come to; one entry a step."""

    losses: tuple[float, ...] = ()
    accuracies: tuple[float, ...] = ()  # share of the step's pairs whose margin is positive

    @property
    def num_steps(self) -> int:
        """Steps taken."""
        return len(self.losses)


class Checkpoints(Protocol):
    """Keeps an unfinished training."""

    def recall(self, parameters: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> Progress:
        """Put what was kept into the parameters and the optimizer; an empty progress if nothing was."""

    def keep(self, parameters: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Keep what a step came to, or leave it for a later one."""


def robust_loss(margins: torch.Tensor, flip_rate: float) -> torch.Tensor:
    """Return each pair's loss (B,) of its margin (B,)."""
    right, wrong = -logsigmoid(margins), -logsigmoid(-margins)
    return ((1.0 - flip_rate) * right - flip_rate * wrong) / (1.0 - 2.0 * flip_rate)


def add_adapter(model: Any, layers: Sequence[int], config: TrainingConfig) -> Any:
    """Put a LoRA on every linear map of some decoder layers, freeze all else; starts as no change at all."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - seconds

    pattern = _layers_name(model)
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if f".{pattern}.{layers[0]}." in f".{name}" and isinstance(module, torch.nn.Linear)
    }
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=sorted(names),
        layers_to_transform=list(layers),
        layers_pattern=pattern,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):  # the first maps are drawn from it
        torch.manual_seed(config.seed)
        return get_peft_model(model, lora)


def train(
    model: Any,
    pairs: Sequence[Tokens],
    config: TrainingConfig,
    checkpoints: Checkpoints,
    step_done: Callable[[Progress], object],
) -> Progress:
    """Train the adapter of a PEFT model in place; deterministic under the seed, resumed or not.

    Cost: one pass without gradients over all pairs for the reference, then a step's pairs forward and backward each.

    Raises:
        ValueError: there are no pairs.
    """
    if not pairs:
        raise ValueError("there are no pairs to learn from")
    model.eval()  # a base with dropout would not be its own reference
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=0.0)
    progress = checkpoints.recall(parameters, optimizer)
    batches = list(itertools.islice(_batches(len(pairs), config), config.steps))
    needed = sorted({index for batch in batches[progress.num_steps :] for index in batch.tolist()})
    reference = dict(zip(needed, _reference(model, [pairs[i] for i in needed]), strict=True))
    mean_weight = float(np.mean([pair.weight for pair in pairs]))
    for step in range(progress.num_steps, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config.steps)
        optimizer.zero_grad(set_to_none=True)
        losses, hits = [], []
        for index in batches[step].tolist():
            pair = pairs[index]
            margin = config.beta * (_ratio(model, pair) - reference[index])  # (1,)
            loss = pair.weight / mean_weight * robust_loss(margin, config.flip_rate).sum() / len(batches[step])
            loss.backward()
            losses.append(loss.item())
            hits.append(margin.item() > 0.0)
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)
        optimizer.step()
        progress = Progress((*progress.losses, sum(losses)), (*progress.accuracies, float(np.mean(hits))))
        checkpoints.keep(parameters, optimizer, progress)
        step_done(progress)
    return progress


def margins(model: Any, pairs: Sequence[Tokens], beta: float) -> NDArray[np.float64]:
    """Return the margins (n,) of pairs under the adapter as it is."""
    model.eval()
    with torch.no_grad():
        own = np.array([_ratio(model, pair).item() for pair in pairs])
    return np.asarray(beta * (own - np.array(_reference(model, pairs))))


def answer_logprobs(model: Any, prompt: tuple[int, ...], answers: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Return the log-probability of each answer to one prompt, summed over its tokens, (n,)."""
    device = next(model.parameters()).device
    longest = max(map(len, answers))
    ids = torch.full((len(answers), len(prompt) + longest), NO_PADDING, device=device)
    mask = torch.zeros_like(ids)
    for row, answer in enumerate(answers):  # padded at the end, where no token of the answer sees it
        whole = torch.tensor([*prompt, *answer], device=device)
        ids[row, : len(whole)] = whole
        mask[row, : len(whole)] = 1
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=longest + 1, use_cache=False).logits[:, :-1]
    targets = ids[:, len(prompt) :]  # (n, T)
    said = logits.float().log_softmax(dim=-1).gather(2, targets[:, :, None])[:, :, 0]
    total: torch.Tensor = (said * mask[:, len(prompt) :]).sum(dim=1)
    return total


def _ratio(model: Any, pair: Tokens) -> torch.Tensor:
    """Return log π(chosen) − log π(rejected), (1,)."""
    said = answer_logprobs(model, pair.prompt, [pair.chosen, pair.rejected])
    return said[:1] - said[1:]


def _reference(model: Any, pairs: Sequence[Tokens]) -> list[float]:
    """Return each pair's ratio under the base model."""
    with torch.no_grad(), _disabled(model):
        return [_ratio(model, pair).item() for pair in pairs]


def _disabled(model: Any) -> AbstractContextManager[None]:
    disabled: AbstractContextManager[None] = (
        model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    )
    return disabled


def _batches(num_pairs: int, config: TrainingConfig) -> Iterator[NDArray[np.int64]]:
    """Yield pairs' numbers for one step after the other, every pair once an epoch."""
    rng = np.random.default_rng(config.seed)
    waiting = np.zeros(0, np.int64)
    while True:
        while len(waiting) < config.batch_size:
            waiting = np.concatenate([waiting, rng.permutation(num_pairs)])
        yield waiting[: config.batch_size]
        waiting = waiting[config.batch_size :]


def _schedule(step: int, steps: int) -> float:
    """Rise over the first tenth, then fall in a half cosine to zero."""
    warmup = max(1, math.ceil(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def _layers_name(model: Any) -> str:
    """Name the list of decoder layers: the longest list of modules."""
    lists = [(len(module), name) for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
    if not lists:
        raise ValueError("the model has no list of layers that an adapter could be put on")
    name: str = max(lists)[1]
    return name.rsplit(".", 1)[-1]
