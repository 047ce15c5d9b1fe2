"""The peers from the literature: a simplex of prototypes by maximum likelihood, and a variational encoder.

Simplex: rewards of K prototypes, a person's weights on them by maximum likelihood (the recipe of PAL, Chen et al. 2024,
and LoRe, Bose et al. 2025). Encoder: a set network from labels to a latent (VPL, Poddar et al. 2024). Both stand on the
pooled reward and see the same inputs as everyone. Knows nothing of splits or metrics.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from router.types import Array
from serve.jobs.few_shot.data import Index
from serve.jobs.few_shot.features import Inputs
from serve.jobs.few_shot.models import Model, Pooled, differences
from serve.jobs.few_shot.protocol import Rows

NUM_PROTOTYPES = 4
SIMPLEX_STEPS = 200
MAXIMUM_STEPS = 200
LATENT = 8
ENCODER_WIDTH = 64
ENCODER_STEPS = 500
BATCH = 64
MAX_CONTEXT = 20
MAX_TARGETS = 20


class PerKind:
    """A model for each kind of question, each trained on labels of its own kind."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self.models = models

    def predict(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Ask the model of the kind."""
        return self.models[kind].predict(kind, shots, questions)


class SimplexMLE:
    """K prototype rewards; a person is a point on the simplex, found by maximum likelihood."""

    def __init__(self, inputs: Inputs, pooled: Pooled, rows: Rows, people: Index, seed: int) -> None:
        self.pooled = pooled
        X = torch.tensor(inputs.tastes, dtype=torch.float32)
        torch_rows, owner = torch.tensor(rows), torch.tensor(people)
        offsets = torch.tensor(pooled.scores(rows), dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed)
        B = (0.1 * torch.randn(X.shape[1], NUM_PROTOTYPES, generator=generator)).requires_grad_()
        V = (0.1 * torch.randn(int(people.max()) + 1, NUM_PROTOTYPES, generator=generator)).requires_grad_()
        optimiser = torch.optim.Adam([B, V], lr=0.1)
        for _ in range(SIMPLEX_STEPS):
            phi = X @ B
            gaps = phi[torch_rows[:, 0]] - phi[torch_rows[:, 1]]
            scores = offsets + (gaps * torch.softmax(V, dim=1)[owner]).sum(dim=1)
            loss = nn.functional.softplus(-scores).sum() + 0.5 * (B**2).sum() + 0.05 * (V**2).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self.phi = (X @ B).detach().numpy().astype(np.float64)  # (n + 1, K)

    def predict(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Climb the likelihood over the simplex by exponentiated gradient from its centre."""
        gaps, offsets = differences(self.phi, shots), self.pooled.scores(shots)
        weights = np.full(NUM_PROTOTYPES, 1.0 / NUM_PROTOTYPES)
        rate = 2.0 / max(1.0, float(np.abs(gaps).sum()))
        for _ in range(MAXIMUM_STEPS if len(shots) else 0):
            slope = expit(-(gaps @ weights + offsets)) @ gaps
            weights = weights * np.exp(np.clip(len(shots) * rate * slope, -20.0, 20.0))
            weights /= weights.sum()
        return np.asarray(expit(self.pooled.scores(questions) + differences(self.phi, questions) @ weights))


class _Encoder(nn.Module):
    """A set network: labels -> mean and log variance of a latent; a linear reward in the latent."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.embed = nn.Linear(num_features, 16, bias=False)
        self.inner = nn.Sequential(nn.Linear(18, ENCODER_WIDTH), nn.ReLU(), nn.Linear(ENCODER_WIDTH, ENCODER_WIDTH))
        self.outer = nn.Sequential(nn.ReLU(), nn.Linear(ENCODER_WIDTH + 1, 2 * LATENT + 2))
        self.reward = nn.Linear(num_features, LATENT, bias=False)

    def encode(self, gaps: Tensor, offsets: Tensor, signs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B, T, 16), (B, T), (B, T) where mask (B, T) is 1."""
        rows = self.inner(torch.cat([gaps, offsets[..., None], signs[..., None]], dim=2)) * mask[..., None]
        count = mask.sum(dim=1, keepdim=True)
        mean = rows.sum(dim=1) / count.clamp(min=1.0)
        out = self.outer(torch.cat([mean, torch.log1p(count)], dim=1))
        return out[:, : LATENT + 1], out[:, LATENT + 1 :].clamp(-6.0, 2.0)


class VariationalEncoder:
    """An amortised encoder of a person's labels, trained on random subsets of the training people's labels."""

    def __init__(self, inputs: Inputs, pooled: Pooled, rows: Rows, people: Index, seed: int) -> None:
        self.pooled = pooled
        self.inputs = torch.tensor(inputs.tastes, dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = _Encoder(self.inputs.shape[1])
            # Inputs have unit length, so that the default initialisation would hardly tell one item from another.
            nn.init.normal_(self.net.embed.weight, std=1.0)
            nn.init.normal_(self.net.reward.weight, std=0.5)
        order = np.argsort(people, kind="stable")
        bounds = np.searchsorted(people[order], np.arange(people.max() + 2))
        offsets = pooled.scores(rows)
        owned = [order[a:b] for a, b in pairwise(bounds) if b - a >= 4]
        optimiser = torch.optim.Adam(self.net.parameters(), lr=3e-3, weight_decay=1e-4)
        rng = np.random.default_rng(seed)
        for step in range(ENCODER_STEPS if owned else 0):
            picked = [rng.permutation(owned[u]) for u in rng.integers(len(owned), size=BATCH)]
            counts = [int(rng.integers(0, min(MAX_CONTEXT, len(ids) - 1) + 1)) for ids in picked]
            shots = [ids[:count] for ids, count in zip(picked, counts, strict=True)]
            asked = [ids[count : count + MAX_TARGETS] for ids, count in zip(picked, counts, strict=True)]
            mean, log_variance = self._encode(rows, offsets, shots)
            noise = torch.randn(mean.shape, generator=generator)
            latent = mean + noise * torch.exp(0.5 * log_variance)
            scores, mask = self._score(rows, offsets, asked, latent)
            divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1.0).sum(dim=1).mean()
            fit = (nn.functional.softplus(-scores) * mask).sum() / BATCH
            loss = fit + min(1.0, 2.0 * step / ENCODER_STEPS) * divergence
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    def predict(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Return the probability at the latent's mean."""
        rows = np.vstack([shots, questions])
        offsets = self.pooled.scores(rows)
        ids = np.arange(len(rows))
        with torch.no_grad():
            mean, _ = self._encode(rows, offsets, [ids[: len(shots)]])
            scores, _ = self._score(rows, offsets, [ids[len(shots) :]], mean)
        return np.asarray(expit(scores[0].numpy().astype(np.float64)))

    def _encode(self, rows: Rows, offsets: Array, shots: list[Index]) -> tuple[Tensor, Tensor]:
        ids, mask = _pad(shots)
        gaps, signs = self._gaps(self.net.embed(self.inputs), rows, ids)
        shown = torch.tensor(offsets, dtype=torch.float32)[ids]
        mean, log_variance = self.net.encode(gaps, shown, signs, mask)
        return mean, log_variance

    def _score(self, rows: Rows, offsets: Array, asked: list[Index], latent: Tensor) -> tuple[Tensor, Tensor]:
        ids, mask = _pad(asked)
        gaps, signs = self._gaps(self.net.reward(self.inputs), rows, ids)
        shared = torch.tensor(offsets, dtype=torch.float32)[ids]
        return shared + (gaps * latent[:, None, :LATENT]).sum(dim=2) + signs * latent[:, None, LATENT], mask

    @staticmethod
    def _gaps(phi: Tensor, rows: Rows, ids: Tensor) -> tuple[Tensor, Tensor]:
        table = torch.tensor(rows)
        return phi[table[ids, 0]] - phi[table[ids, 1]], table[ids, 2].float()


def _pad(lists: list[Index]) -> tuple[Tensor, Tensor]:
    """Return ids (B, T) filled with 0, and a mask (B, T)."""
    longest = max(1, *[len(ids) for ids in lists]) if lists else 1
    ids, mask = torch.zeros(len(lists), longest, dtype=torch.int64), torch.zeros(len(lists), longest)
    for row, chosen in enumerate(lists):
        ids[row, : len(chosen)] = torch.tensor(chosen)
        mask[row, : len(chosen)] = 1.0
    return ids, mask
