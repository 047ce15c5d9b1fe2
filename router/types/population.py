"""What everyone's feedback taught: the reward basis and the prior over a person's weights.

Knows nothing of how it is fitted or stored. Letters: K prototypes, D reward features, P raw features, L = D + 1 latent
coordinates (tastes, then the person's thumb threshold).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from router.types.arrays import Array, check_simplex, floats, freeze, plain_arrays, strings


@dataclass(frozen=True, eq=False)
class Population:
    """What everyone's feedback taught: reward basis, base reward, and the prior over a person's weights.

    Reward of a response is `(base_weights + w)·φ` with `φ = basis @ ((x - center) / scale)` and
    `w ~ Σ_k mixture_weights[k] · N(means[k], covariances[k])`: `w` is the person's deviation from everyone's taste.
    A person without events is judged by `base_weights` alone.
    """

    basis: Array  # (D, P)
    center: Array  # (P,)
    scale: Array  # (P,), positive
    mixture_weights: Array  # (K,), on the simplex
    means: Array  # (K, D)
    covariances: Array  # (K, D, D), positive definite
    base_weights: Array  # (D,)
    gating_weights: Array | None = None  # (K, Q + 1): logits of a prompt's features and 1, added to log mixture_weights
    flip_rate: float = 0.05  # share of labels given the wrong way round, [0, 0.5)
    threshold_means: Array | None = None  # (K,) reward wanted above the candidates' mean for a thumb up; None: zeros
    threshold_variances: Array | None = None  # (K,); None: ones
    threshold_covariances: Array | None = None  # (K, D) of the threshold with the tastes; None: zeros
    rating_cuts: Array = field(default_factory=lambda: np.array([-1.5, -0.5, 0.5, 1.5]))  # (levels - 1,), ascending
    tempering: float = 1.0  # η in (0, 1]: weight of one event's log-likelihood; below 1 where events are correlated
    attribute_names: tuple[str, ...] = ()  # one per row of basis, "" where a row has no name
    drift_half_life_s: float | None = None  # an event this much older than the newest counts half; None: no drift
    version: str = "0"
    prior_means: Array = field(init=False)  # (K, L) tastes, then the threshold
    prior_covariances: Array = field(init=False)  # (K, L, L)
    prior_precision: Array = field(init=False)  # (K, L, L)
    prior_shift: Array = field(init=False)  # (K, L): precision @ mean
    prior_log_determinants: Array = field(init=False)  # (K,) of the precision

    def __post_init__(self) -> None:
        D, P = freeze(self, "basis", (None, None)).shape
        K = freeze(self, "mixture_weights", (None,)).shape[0]
        freeze(self, "center", (P,))
        freeze(self, "means", (K, D))
        freeze(self, "base_weights", (D,))
        check_simplex("mixture_weights", self.mixture_weights)
        if freeze(self, "scale", (P,)).min(initial=np.inf) <= 0.0:
            raise ValueError("scale must be positive; use 1 for features that do not vary")
        covariances = freeze(self, "covariances", (K, D, D))
        if np.abs(covariances - covariances.transpose(0, 2, 1)).max(initial=0.0) > 1e-8:
            raise ValueError("covariances must be symmetric; average each with its transpose")
        if self.gating_weights is not None:
            freeze(self, "gating_weights", (K, None))
        if not 0.0 <= self.flip_rate < 0.5:
            raise ValueError(f"flip_rate must be in [0, 0.5), but is {self.flip_rate}")
        if (np.diff(freeze(self, "rating_cuts", (None,))) <= 0.0).any():
            raise ValueError("rating_cuts must ascend strictly")
        if not 0.0 < self.tempering <= 1.0:
            raise ValueError(f"tempering must be in (0, 1], but is {self.tempering}")
        if self.attribute_names and len(self.attribute_names) != D:
            raise ValueError(f"attribute_names needs one name (or '') for each of the {D} rows of basis")
        if self.drift_half_life_s is not None and self.drift_half_life_s <= 0.0:
            raise ValueError("drift_half_life_s must be positive, or None for no drift")
        self._derive_prior()

    def _derive_prior(self) -> None:
        D, K = self.num_features, self.num_prototypes
        absent = {"threshold_means": np.zeros(K), "threshold_variances": np.ones(K)}
        absent["threshold_covariances"] = np.zeros((K, D))
        for name, default in absent.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        crossed = freeze(self, "threshold_covariances", (K, D))
        covariances = np.empty((K, D + 1, D + 1))
        covariances[:, :D, :D] = self.covariances
        covariances[:, :D, D] = covariances[:, D, :D] = crossed
        covariances[:, D, D] = freeze(self, "threshold_variances", (K,))
        variances = np.linalg.eigvalsh(covariances)  # (K, L)
        if variances.min(initial=np.inf) <= 0.0:
            raise ValueError("covariances must be positive definite; add a small multiple of the identity")
        means = np.column_stack([self.means, freeze(self, "threshold_means", (K,))])
        precision = np.linalg.inv(covariances)
        precision = 0.5 * (precision + precision.transpose(0, 2, 1))
        shift = (precision @ means[:, :, None])[:, :, 0]
        derived = {"means": means, "covariances": covariances, "precision": precision, "shift": shift}
        derived["log_determinants"] = -np.log(variances).sum(axis=1)
        for name, array in derived.items():
            array.setflags(write=False)
            object.__setattr__(self, f"prior_{name}", array)

    @property
    def num_features(self) -> int:
        """D, the number of reward features."""
        return int(self.basis.shape[0])

    @property
    def num_prototypes(self) -> int:
        """K, the number of prototypes."""
        return int(self.mixture_weights.shape[0])

    def features(self, raw: Array) -> Array:
        """Map raw features (..., P) to reward features (..., D)."""
        raw = np.asarray(raw, dtype=np.float64)
        if raw.shape[-1:] != self.center.shape:
            raise ValueError(f"raw features must end in {self.center.shape[0]} numbers, but have shape {raw.shape}")
        return ((raw - self.center) / self.scale) @ self.basis.T

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return plain arrays that `from_arrays` reads back; fit for `numpy.savez` without pickle."""
        return plain_arrays(self)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "Population":
        """Rebuild a population from `to_arrays`."""
        return cls(
            basis=floats(arrays["basis"]),
            center=floats(arrays["center"]),
            scale=floats(arrays["scale"]),
            mixture_weights=floats(arrays["mixture_weights"]),
            means=floats(arrays["means"]),
            covariances=floats(arrays["covariances"]),
            base_weights=floats(arrays["base_weights"]),
            gating_weights=floats(arrays["gating_weights"]) if "gating_weights" in arrays else None,
            flip_rate=float(floats(arrays["flip_rate"])),
            threshold_means=floats(arrays["threshold_means"]),
            threshold_variances=floats(arrays["threshold_variances"]),
            threshold_covariances=floats(arrays["threshold_covariances"]),
            rating_cuts=floats(arrays["rating_cuts"]),
            tempering=float(floats(arrays["tempering"])),
            attribute_names=strings(arrays["attribute_names"]),
            drift_half_life_s=float(floats(arrays["drift_half_life_s"])) if "drift_half_life_s" in arrays else None,
            version=str(arrays["version"]),
        )
