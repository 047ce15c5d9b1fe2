"""What is believed about one person, and the evidence it rests on.

Knows nothing of how evidence moves a belief. Letters: K prototypes, D reward features, L = D + 1 latent coordinates
(tastes, then the person's thumb threshold), R rows, G groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from router.mixture import Mixture
from router.types.arrays import Array, floats, freeze, plain_arrays, strings


@dataclass(frozen=True, eq=False)
class Evidence:
    """Events as rows of one likelihood; what a posterior keeps of them.

    Row r has the score `s_r = designs[r]·[w, threshold] + offsets[r]`. The rows of one group are one observation with
    probability `1 / (1 + Σ_r exp(-s_r))` (a choice among rows + 1 responses) or, for a group of one row,
    `σ(s - lows) - σ(s - highs)` (an ordered level; `lows` 0 and `highs` inf for a comparison or thumb).
    """

    designs: Array  # (R, L)
    offsets: Array  # (R,) the base reward's part of the score
    groups: NDArray[np.int64]  # (R,) ascending from 0 without gaps
    lows: Array  # (G,) may be -inf
    highs: Array  # (G,) may be inf
    weights: Array  # (G,)
    num_outcomes: Array  # (G,) how many outcomes were possible; a flipped label is any of them
    times_s: Array  # (G,)
    event_ids: tuple[str, ...]  # (G,) several groups may share one event
    targets: tuple[str, ...]  # (G,)

    def __post_init__(self) -> None:
        R = freeze(self, "designs", (None, None)).shape[0]
        freeze(self, "offsets", (R,))
        G = freeze(self, "weights", (None,)).shape[0]
        freeze(self, "num_outcomes", (G,))
        freeze(self, "times_s", (G,))
        groups = np.array(self.groups, dtype=np.int64)
        steps = np.diff(groups, prepend=-1)
        if groups.shape != (R,) or (R and (steps.min() < 0 or steps.max() > 1)) or (groups[-1] + 1 if R else 0) != G:
            raise ValueError("groups must number the rows' groups in ascending order from 0 without gaps")
        groups.setflags(write=False)
        object.__setattr__(self, "groups", groups)
        for name in ("lows", "highs"):
            bounds = np.array(getattr(self, name), dtype=np.float64)
            if bounds.shape != (G,) or np.isnan(bounds).any():
                raise ValueError(f"{name} must hold one number, or an infinity, for each of the {G} groups")
            bounds.setflags(write=False)
            object.__setattr__(self, name, bounds)
        if (self.lows >= self.highs).any():
            raise ValueError("each group's low must be below its high")
        if len(self.event_ids) != G or len(self.targets) != G:
            raise ValueError(f"event_ids and targets must name each of the {G} groups")

    @property
    def num_groups(self) -> int:
        """G, the number of observations."""
        return len(self.event_ids)

    @cached_property
    def is_plain(self) -> bool:
        """Whether every observation is a comparison or a thumb, so that the likelihood takes its shortest form."""
        return not self.has_choices and not self.lows.any() and bool(np.isposinf(self.highs).all())

    @property
    def has_choices(self) -> bool:
        """Whether some group has more than one row (a choice among three or more)."""
        return bool(self.groups.shape[0] > len(self.event_ids))

    @cached_property
    def group_rows(self) -> NDArray[np.int64]:
        """Rows of each group, (G, M) with M those of the largest; -1 where there is none."""
        starts = np.searchsorted(self.groups, np.arange(self.num_groups))
        places = np.arange(len(self.groups)) - starts[self.groups]
        rows = np.full((self.num_groups, int(places.max(initial=0)) + 1), -1, np.int64)
        rows[self.groups, places] = np.arange(len(self.groups))
        return rows


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is believed about one person: per prototype a Gaussian in natural parameters, and its evidence.

    Coordinates are the D tastes and then the thumb threshold (L = D + 1). `evidence` keeps the newest observations as
    they were; older ones live on as the Gaussian factor `folded_precision`, `folded_shift`, `folded_log_evidence`.
    """

    precision: Array  # (K, L, L)
    shift: Array  # (K, L): precision @ mean
    log_evidence: Array  # (K,)
    log_mixture_weights: Array  # (K,) of the prior
    evidence: Evidence
    folded_precision: Array  # (K, L, L)
    folded_shift: Array  # (K, L)
    folded_log_evidence: Array  # (K,)
    folded_time_s: float  # the moment up to which drift has been applied to the folded factor
    num_events: int
    flip_rate: float  # this person's
    population_version: str
    latent_means: Array = field(init=False)  # (K, L)
    latent_covariances: Array = field(init=False)  # (K, L, L)

    def __post_init__(self) -> None:
        K, L, _ = freeze(self, "precision", (None, None, None)).shape
        freeze(self, "precision", (K, L, L))
        freeze(self, "shift", (K, L))
        freeze(self, "log_evidence", (K,))
        freeze(self, "log_mixture_weights", (K,))
        freeze(self, "folded_precision", (K, L, L))
        freeze(self, "folded_shift", (K, L))
        freeze(self, "folded_log_evidence", (K,))
        if self.evidence.designs.shape[1] != L:
            raise ValueError(f"evidence designs must have {L} columns, but have {self.evidence.designs.shape[1]}")
        if self.num_events < 0:
            raise ValueError("num_events must be at least 0")
        if not 0.0 <= self.flip_rate < 0.5:
            raise ValueError(f"flip_rate must be in [0, 0.5), but is {self.flip_rate}")
        covariances = np.linalg.inv(self.precision)
        means = (covariances @ self.shift[:, :, None])[:, :, 0]
        for name, array in (("latent_covariances", covariances), ("latent_means", means)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @cached_property
    def taste(self) -> Mixture:
        """The belief about the tastes in moment form; one object, so that its square roots are worked out once."""
        return Mixture(self.responsibilities, self.means, self.covariances)

    @property
    def means(self) -> Array:
        """Mean taste per prototype, (K, D)."""
        return self.latent_means[:, :-1]

    @property
    def covariances(self) -> Array:
        """Covariance of the tastes per prototype, (K, D, D)."""
        return self.latent_covariances[:, :-1, :-1]

    @property
    def responsibilities(self) -> Array:
        """Probability of each prototype given everything seen, (K,): one softmax of summed log-likelihoods."""
        logits = self.log_mixture_weights + self.log_evidence
        weights = np.exp(logits - logits.max())
        return np.asarray(weights / weights.sum())

    @property
    def mean(self) -> Array:
        """Mean taste over the whole mixture, (D,)."""
        return np.asarray(self.responsibilities @ self.means)

    @property
    def covariance(self) -> Array:
        """Covariance of the whole mixture, (D, D): within prototypes plus between them."""
        weights, centered = self.responsibilities, self.means - self.mean
        within = np.einsum("k,kij->ij", weights, self.covariances)
        return np.asarray(within + (weights[:, None] * centered).T @ centered)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return plain arrays that `from_arrays` reads back; fit for `numpy.savez` without pickle."""
        arrays = plain_arrays(self)
        arrays.update({f"evidence.{name}": array for name, array in plain_arrays(self.evidence).items()})
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "Posterior":
        """Rebuild a posterior from `to_arrays`."""
        return cls(
            precision=floats(arrays["precision"]),
            shift=floats(arrays["shift"]),
            log_evidence=floats(arrays["log_evidence"]),
            log_mixture_weights=floats(arrays["log_mixture_weights"]),
            evidence=Evidence(
                designs=floats(arrays["evidence.designs"]),
                offsets=floats(arrays["evidence.offsets"]),
                groups=np.asarray(arrays["evidence.groups"], dtype=np.int64),
                lows=floats(arrays["evidence.lows"]),
                highs=floats(arrays["evidence.highs"]),
                weights=floats(arrays["evidence.weights"]),
                num_outcomes=floats(arrays["evidence.num_outcomes"]),
                times_s=floats(arrays["evidence.times_s"]),
                event_ids=strings(arrays["evidence.event_ids"]),
                targets=strings(arrays["evidence.targets"]),
            ),
            folded_precision=floats(arrays["folded_precision"]),
            folded_shift=floats(arrays["folded_shift"]),
            folded_log_evidence=floats(arrays["folded_log_evidence"]),
            folded_time_s=float(floats(arrays["folded_time_s"])),
            num_events=int(floats(arrays["num_events"])),
            flip_rate=float(floats(arrays["flip_rate"])),
            population_version=str(arrays["population_version"]),
        )
