"""The values the preference model works on: populations, events, posteriors, routes and candidate plans.

Frozen dataclasses over float64 arrays; every shape is checked at construction, so the mathematics need not check again.
Knows nothing about how any of them is fitted, chosen, stored or sent. Letters: K prototypes, D reward features,
P raw features, L = D + 1 latent coordinates (tastes, then the person's thumb threshold), R rows, G groups, N arms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from router.mixture import Mixture

Array = NDArray[np.float64]
ArmKind = Literal["base", "steered", "adapter", "instruction"]
SteeringReason = Literal["on", "explicit", "gate", "no_feedback", "off"]
ARM_KINDS = ("base", "steered", "adapter", "instruction")
SIMPLEX_TOLERANCE = 1e-6


def as_array(name: str, value: object, shape: tuple[int | None, ...]) -> Array:
    """Return `value` as a read-only float64 array of `shape`; `None` in the shape admits any length.

    Raises ValueError when the shape differs or a number is not finite.
    """
    array = np.array(value, dtype=np.float64)
    if len(array.shape) != len(shape) or any(
        want not in (None, got) for want, got in zip(shape, array.shape, strict=True)
    ):
        wanted = "(" + ", ".join("any" if want is None else str(want) for want in shape) + ")"
        raise ValueError(f"{name} must have shape {wanted}, but has {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite; drop them before building this value")
    array.setflags(write=False)
    return array


def _freeze(instance: object, name: str, shape: tuple[int | None, ...]) -> Array:
    array = as_array(name, getattr(instance, name), shape)
    object.__setattr__(instance, name, array)
    return array


def _check_simplex(name: str, weights: Array) -> None:
    if weights.min() < 0.0 or abs(weights.sum() - 1.0) > SIMPLEX_TOLERANCE:
        raise ValueError(f"{name} must be at least 0 and sum to 1; divide by their sum first")


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
        D, P = _freeze(self, "basis", (None, None)).shape
        K = _freeze(self, "mixture_weights", (None,)).shape[0]
        _freeze(self, "center", (P,))
        _freeze(self, "means", (K, D))
        _freeze(self, "base_weights", (D,))
        _check_simplex("mixture_weights", self.mixture_weights)
        if _freeze(self, "scale", (P,)).min(initial=np.inf) <= 0.0:
            raise ValueError("scale must be positive; use 1 for features that do not vary")
        covariances = _freeze(self, "covariances", (K, D, D))
        if np.abs(covariances - covariances.transpose(0, 2, 1)).max(initial=0.0) > 1e-8:
            raise ValueError("covariances must be symmetric; average each with its transpose")
        if self.gating_weights is not None:
            _freeze(self, "gating_weights", (K, None))
        if not 0.0 <= self.flip_rate < 0.5:
            raise ValueError(f"flip_rate must be in [0, 0.5), but is {self.flip_rate}")
        if (np.diff(_freeze(self, "rating_cuts", (None,))) <= 0.0).any():
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
        crossed = _freeze(self, "threshold_covariances", (K, D))
        covariances = np.empty((K, D + 1, D + 1))
        covariances[:, :D, :D] = self.covariances
        covariances[:, :D, D] = covariances[:, D, :D] = crossed
        covariances[:, D, D] = _freeze(self, "threshold_variances", (K,))
        variances = np.linalg.eigvalsh(covariances)  # (K, L)
        if variances.min(initial=np.inf) <= 0.0:
            raise ValueError("covariances must be positive definite; add a small multiple of the identity")
        means = np.column_stack([self.means, _freeze(self, "threshold_means", (K,))])
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
        return _to_arrays(self)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "Population":
        """Rebuild a population from `to_arrays`."""
        return cls(
            basis=_floats(arrays["basis"]),
            center=_floats(arrays["center"]),
            scale=_floats(arrays["scale"]),
            mixture_weights=_floats(arrays["mixture_weights"]),
            means=_floats(arrays["means"]),
            covariances=_floats(arrays["covariances"]),
            base_weights=_floats(arrays["base_weights"]),
            gating_weights=_floats(arrays["gating_weights"]) if "gating_weights" in arrays else None,
            flip_rate=float(_floats(arrays["flip_rate"])),
            threshold_means=_floats(arrays["threshold_means"]),
            threshold_variances=_floats(arrays["threshold_variances"]),
            threshold_covariances=_floats(arrays["threshold_covariances"]),
            rating_cuts=_floats(arrays["rating_cuts"]),
            tempering=float(_floats(arrays["tempering"])),
            attribute_names=_strings(arrays["attribute_names"]),
            drift_half_life_s=float(_floats(arrays["drift_half_life_s"])) if "drift_half_life_s" in arrays else None,
            version=str(arrays["version"]),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Event:
    """What every piece of feedback carries. `target` names the completion: a later event on it replaces the earlier."""

    event_id: str
    weight: float = 1.0  # 1 for what a person said; less for what was only observed (implicit signals)
    target: str = ""  # "" stands for itself and replaces nothing
    time_s: float = 0.0  # seconds since any fixed moment; matters only with drift

    def __post_init__(self) -> None:
        if not self.event_id:
            raise ValueError("event_id must not be empty")
        if not (np.isfinite(self.weight) and self.weight > 0.0):
            raise ValueError(f"weight must be positive and finite, but is {self.weight}")
        if not np.isfinite(self.time_s):
            raise ValueError("time_s must be finite")


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison(Event):
    """One response preferred to another; edits and demonstrations are one over what was shown."""

    chosen: Array  # (D,)
    rejected: Array  # (D,)

    def __post_init__(self) -> None:
        super().__post_init__()
        _freeze(self, "rejected", _freeze(self, "chosen", (None,)).shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Choice(Event):
    """One response preferred to each of several others, about whose order nothing was said."""

    chosen: Array  # (D,)
    rejected: Array  # (n, D), n >= 1

    def __post_init__(self) -> None:
        super().__post_init__()
        D = _freeze(self, "chosen", (None,)).shape[0]
        if _freeze(self, "rejected", (None, D)).shape[0] < 1:
            raise ValueError("a choice needs at least one rejected response")


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking(Event):
    """Responses from best to worst (Plackett-Luce)."""

    features: Array  # (n, D), n >= 2, best first

    def __post_init__(self) -> None:
        super().__post_init__()
        if _freeze(self, "features", (None, None)).shape[0] < 2:
            raise ValueError("a ranking needs at least two responses")


@dataclass(frozen=True, eq=False, kw_only=True)
class Thumb(Event):
    """A thumb up (+1) or down (-1), judged against the mean of the request's own candidates."""

    features: Array  # (D,)
    reference: Array  # (D,) mean features of the request's candidates
    value: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _freeze(self, "reference", _freeze(self, "features", (None,)).shape)
        if self.value not in (-1, 1):
            raise ValueError(f"a thumb's value is 1 (up) or -1 (down), not {self.value}")


@dataclass(frozen=True, eq=False, kw_only=True)
class Rating(Event):
    """An ordered level, 0 the worst; there is one level more than the population has rating cuts."""

    features: Array  # (D,)
    reference: Array  # (D,)
    level: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _freeze(self, "reference", _freeze(self, "features", (None,)).shape)
        if self.level < 0:
            raise ValueError(f"level counts from 0, but is {self.level}")


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
        R = _freeze(self, "designs", (None, None)).shape[0]
        _freeze(self, "offsets", (R,))
        G = _freeze(self, "weights", (None,)).shape[0]
        _freeze(self, "num_outcomes", (G,))
        _freeze(self, "times_s", (G,))
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
        K, L, _ = _freeze(self, "precision", (None, None, None)).shape
        _freeze(self, "precision", (K, L, L))
        _freeze(self, "shift", (K, L))
        _freeze(self, "log_evidence", (K,))
        _freeze(self, "log_mixture_weights", (K,))
        _freeze(self, "folded_precision", (K, L, L))
        _freeze(self, "folded_shift", (K, L))
        _freeze(self, "folded_log_evidence", (K,))
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
        arrays = _to_arrays(self)
        arrays.update({f"evidence.{name}": array for name, array in _to_arrays(self.evidence).items()})
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "Posterior":
        """Rebuild a posterior from `to_arrays`."""
        return cls(
            precision=_floats(arrays["precision"]),
            shift=_floats(arrays["shift"]),
            log_evidence=_floats(arrays["log_evidence"]),
            log_mixture_weights=_floats(arrays["log_mixture_weights"]),
            evidence=Evidence(
                designs=_floats(arrays["evidence.designs"]),
                offsets=_floats(arrays["evidence.offsets"]),
                groups=np.asarray(arrays["evidence.groups"], dtype=np.int64),
                lows=_floats(arrays["evidence.lows"]),
                highs=_floats(arrays["evidence.highs"]),
                weights=_floats(arrays["evidence.weights"]),
                num_outcomes=_floats(arrays["evidence.num_outcomes"]),
                times_s=_floats(arrays["evidence.times_s"]),
                event_ids=_strings(arrays["evidence.event_ids"]),
                targets=_strings(arrays["evidence.targets"]),
            ),
            folded_precision=_floats(arrays["folded_precision"]),
            folded_shift=_floats(arrays["folded_shift"]),
            folded_log_evidence=_floats(arrays["folded_log_evidence"]),
            folded_time_s=float(_floats(arrays["folded_time_s"])),
            num_events=int(_floats(arrays["num_events"])),
            flip_rate=float(_floats(arrays["flip_rate"])),
            population_version=str(arrays["population_version"]),
        )


@dataclass(frozen=True, eq=False)
class Route:
    """How a person's answers are to be generated and judged.

    The steering vector is `dose` times the residual norm along `C @ steering_coefficients`; the length of the
    coefficients themselves means nothing.
    """

    mixture_weights: Array  # (K,), on the simplex
    steering_coefficients: Array  # (D,) coefficients of the shared directions; exactly 0 without steering
    dose: float  # length of the steering vector relative to the residual norm, >= 0
    certainty: float  # [0, 1], how much of the prior's doubt about this taste is gone
    prob_gain: float  # [0, 1], P(steering along the inferred taste gains | posterior)
    adapter: str | None
    steering: SteeringReason  # why the inferred taste steers or does not
    taste: Mixture  # w under this prompt
    judge: Mixture  # weights that score the candidates: base, w at the request's strength, explicit weights
    pull_per_taste: (
        float  # coefficients per unit of taste: a neighbour's are these + pull_per_taste·(its taste − anchor)
    )
    anchor: Array  # (D,) the taste that the coefficients stand for

    def __post_init__(self) -> None:
        K, D = self.taste.means.shape
        _check_simplex("mixture_weights", _freeze(self, "mixture_weights", (K,)))
        _freeze(self, "steering_coefficients", (D,))
        _freeze(self, "anchor", (D,))
        if self.judge.means.shape[1] != D:
            raise ValueError(f"the judge must have {D} features as the taste has")
        if not (np.isfinite(self.dose) and self.dose >= 0.0):
            raise ValueError(f"dose must be at least 0, but is {self.dose}")
        if not (0.0 <= self.certainty <= 1.0 and 0.0 <= self.prob_gain <= 1.0):
            raise ValueError(f"certainty and prob_gain must be in [0, 1], but are {self.certainty}, {self.prob_gain}")

    @property
    def is_zero(self) -> bool:
        """Whether this request is exactly the base model's: nothing is known of the person and nothing asked for."""
        return self.steering in ("no_feedback", "off")

    @property
    def is_steered(self) -> bool:
        """Whether answers are generated otherwise than by the untouched base model."""
        return self.dose > 0.0 or self.adapter is not None


@dataclass(frozen=True, eq=False)
class Arm:
    """One candidate's way of being generated."""

    kind: ArmKind
    steering_coefficients: Array  # (D,), zero unless steered
    dose: float = 0.0  # as in Route
    adapter: str | None = None
    instruction: str | None = None  # from the shared list, never a person's text

    def __post_init__(self) -> None:
        _freeze(self, "steering_coefficients", (None,))
        if self.kind not in ARM_KINDS:
            raise ValueError(f"kind must be one of {', '.join(ARM_KINDS)}, but is {self.kind!r}")
        if not (np.isfinite(self.dose) and self.dose >= 0.0):
            raise ValueError(f"dose must be at least 0, but is {self.dose}")
        if (self.kind == "adapter") != (self.adapter is not None):
            raise ValueError("an adapter is named by arms of kind 'adapter', and by no others")
        if (self.kind == "instruction") != (self.instruction is not None):
            raise ValueError("an instruction is given by arms of kind 'instruction', and by no others")
        if self.kind == "base" and (self.dose or self.steering_coefficients.any()):
            raise ValueError("the base arm is not steered")


@dataclass(frozen=True, eq=False)
class CandidatePlan:
    """The N arms of one request; the first is the untouched base model wherever there is a choice (N > 1)."""

    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        if not self.arms:
            raise ValueError("a plan needs at least one arm")
        if len(self.arms) > 1 and self.arms[0].kind != "base":
            raise ValueError("the first of several arms must be of kind 'base'")

    @property
    def num_arms(self) -> int:
        """N, the number of candidates."""
        return len(self.arms)


def _floats(array: NDArray[np.generic]) -> Array:
    return np.asarray(array, dtype=np.float64)


def _strings(array: NDArray[np.generic]) -> tuple[str, ...]:
    return tuple(str(text) for text in array)


def _to_arrays(instance: "Population | Posterior | Evidence") -> dict[str, NDArray[np.generic]]:
    values = {f.name: getattr(instance, f.name) for f in fields(instance) if f.init}
    return {
        name: np.array(value, dtype=np.str_) if isinstance(value, tuple) else np.asarray(value)
        for name, value in values.items()
        if value is not None and not isinstance(value, Evidence)
    }
