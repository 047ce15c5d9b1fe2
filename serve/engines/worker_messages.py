"""What an engine's owner and the worker extension say to each other: start-up settings, and messages of plain values.

vLLM carries `collective_rpc` as msgpack without types, so arrays go as shape and bytes. Knows neither vLLM nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXTENSION = "serve.engines.worker_extension.PalateWorkerExtension"
SCHEDULER = "serve.engines.steering_scheduler.build_scheduler"
SENT = "palate_states"  # what a worker's step output carries them under, and the step's message to its caller
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def engine_settings(layers: Sequence[int]) -> dict[str, Any]:
    """Give the arguments for `AsyncEngineArgs` that switch steering on, with taps at `layers` compiled in."""
    return {
        "worker_extension_cls": EXTENSION,
        "scheduler_cls": SCHEDULER,
        # Part of vLLM's compile-cache key, so that a graph with other taps is never loaded from disk.
        "additional_config": {"palate": {"layers": sorted(layers)}},
    }


def pack(array: FloatArray) -> dict[str, Any]:
    """Turn an array into plain values."""
    return {"shape": list(array.shape), "data": np.ascontiguousarray(array, dtype="<f4").tobytes()}


def unpack(packed: Mapping[str, Any]) -> FloatArray:
    """Turn `pack`'s values back into an array of its own."""
    return np.frombuffer(packed["data"], dtype="<f4").reshape(packed["shape"]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Projection:
    """The reward basis: `φ = basis @ ((x - mean) / scale)`, x the pooled layers end to end, P = L·H long."""

    basis: FloatArray  # (D, P)
    mean: FloatArray  # (P,)
    scale: FloatArray  # (P,)

    def __post_init__(self) -> None:
        if self.basis.ndim != 2 or self.mean.shape != self.scale.shape or self.mean.shape != self.basis.shape[1:]:
            raise ValueError(
                f"A projection has a basis (D, P), a mean (P,) and a scale (P,); "
                f"not {self.basis.shape}, {self.mean.shape} and {self.scale.shape}."
            )
        if not (np.isfinite(self.basis).all() and np.isfinite(self.mean).all() and (self.scale > 0).all()):
            raise ValueError("A projection is finite and its scale positive.")


@dataclass(frozen=True, slots=True)
class TokenFeatures:
    """What each of T common tokens says of an answer's features: E[features | token] among answers to one prompt.

    Shares are counted as the features are, an answer that repeats a token for a few of its occurrences.
    """

    tokens: IntArray  # (T,) ids, no two the same
    shares: FloatArray  # (T,) of the tokens of plain answers
    features: FloatArray  # (T, P)

    def __post_init__(self) -> None:
        size = len(self.tokens)
        if (
            self.tokens.ndim != 1
            or self.features.ndim != 2
            or self.shares.shape != (size,)
            or len(self.features) != size
        ):
            raise ValueError(
                f"Token features are ids (T,), shares (T,) and features (T, P); "
                f"not {self.tokens.shape}, {self.shares.shape} and {self.features.shape}."
            )
        if self.tokens.dtype.kind != "i" or len(set(self.tokens.tolist())) != size or (size and self.tokens.min() < 0):
            raise ValueError("Token ids are different whole numbers from 0.")
        if not (np.isfinite(self.features).all() and ((self.shares > 0) & (self.shares <= 1)).all()):
            raise ValueError("Token features are finite, and their shares above 0 and at most 1.")

    def to_message(self) -> dict[str, Any]:
        """Give plain values."""
        return {"tokens": self.tokens.tolist(), "shares": pack(self.shares), "features": pack(self.features)}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> TokenFeatures:
        """Read what `to_message` wrote."""
        return cls(np.array(message["tokens"], np.int64), unpack(message["shares"]), unpack(message["features"]))


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What the worker adds and what it reads. Layer i is the output of the i-th decoder layer, from 0.

    Args:
        pooled_layers: layers whose states are summed.
        steered_layer: layer after which the vector is added.
        directions: the shared directions C, (H, D).
        max_dose: largest length of an added vector as a share of the token's residual norm at that layer.
        projection: what turns pooled states into features; without one they come as they are.
        version: comes back with every reading, so that features of different bases are not mixed up.
        max_finished: finished sequences whose states are kept until they are freed.
        token_features: by which logits are tilted; without them nobody's are.
    """

    pooled_layers: tuple[int, ...]
    steered_layer: int
    directions: FloatArray
    max_dose: float
    projection: Projection | None = None
    version: str = ""
    max_finished: int = 1024
    token_features: TokenFeatures | None = None

    def __post_init__(self) -> None:
        if self.directions.ndim != 2 or not np.isfinite(self.directions).all():
            raise ValueError(f"The directions are a finite (H, D) array; not {self.directions.shape}.")
        if not 0 <= self.max_dose <= 1:
            raise ValueError(f"The largest dose is a share of the residual norm between 0 and 1; not {self.max_dose}.")
        if len(set(self.pooled_layers)) != len(self.pooled_layers) or min(self.layers) < 0:
            raise ValueError(f"Layers are different numbers from 0; not {self.pooled_layers}, {self.steered_layer}.")
        width = len(self.pooled_layers) * self.directions.shape[0]
        if self.projection is not None and self.projection.mean.shape != (width,):
            raise ValueError(
                f"{len(self.pooled_layers)} layers of {self.directions.shape[0]} make {width} values; "
                f"the projection takes {len(self.projection.mean)}."
            )
        if self.token_features is not None and self.token_features.features.shape[1] != self.directions.shape[1]:
            raise ValueError(
                f"There are {self.directions.shape[1]} directions, and tokens have "
                f"{self.token_features.features.shape[1]} features."
            )
        if self.max_finished < 0:
            raise ValueError("max_finished is at least 0.")

    @property
    def layers(self) -> tuple[int, ...]:
        """Every layer that needs a tap, ascending."""
        return tuple(sorted({*self.pooled_layers, self.steered_layer}))

    def to_message(self) -> dict[str, Any]:
        """Give the argument of `collective_rpc("configure", args=(message,))`."""
        projection = self.projection and [
            pack(self.projection.basis),
            pack(self.projection.mean),
            pack(self.projection.scale),
        ]
        return {
            "pooled_layers": list(self.pooled_layers),
            "steered_layer": self.steered_layer,
            "directions": pack(self.directions),
            "max_dose": self.max_dose,
            "projection": projection,
            "version": self.version,
            "max_finished": self.max_finished,
            "token_features": self.token_features and self.token_features.to_message(),
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> WorkerConfig:
        """Read what `to_message` wrote."""
        projection, tokens = message["projection"], message["token_features"]
        return cls(
            pooled_layers=tuple(message["pooled_layers"]),
            steered_layer=message["steered_layer"],
            directions=unpack(message["directions"]),
            max_dose=message["max_dose"],
            projection=Projection(*map(unpack, projection)) if projection else None,
            version=message["version"],
            max_finished=message["max_finished"],
            token_features=TokenFeatures.from_message(tokens) if tokens else None,
        )


@dataclass(frozen=True, slots=True)
class States:
    """What `read_states` found: the mean state, or its features, of each sequence it knows."""

    version: str
    counts: dict[str, int]  # generated tokens behind each mean; 0 where none was fed back yet
    values: dict[str, FloatArray]  # (D,) features with a projection, else (L, H)

    def to_message(self) -> dict[str, Any]:
        """Give plain values."""
        stacked = np.stack(list(self.values.values())) if self.values else np.zeros(0, dtype=np.float32)
        return {
            "version": self.version,
            "ids": list(self.counts),
            "counts": list(self.counts.values()),
            "values": pack(stacked),
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> States:
        """Read what `to_message` wrote: the first reply of `collective_rpc("read_states", args=(ids,))`."""
        ids, counts, values = message["ids"], message["counts"], unpack(message["values"])
        return cls(
            message["version"], dict(zip(ids, counts, strict=True)), dict(zip(ids, values, strict=True)) if ids else {}
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """One sequence's states as they were when the step that carries them ended."""

    version: str
    count: int  # generated tokens behind the mean
    values: FloatArray  # (D,) features with a projection, else (L, H)

    def to_message(self) -> dict[str, Any]:
        """Give plain values."""
        return {"version": self.version, "count": self.count, "values": pack(self.values)}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Reading:
        """Read what `to_message` wrote."""
        return cls(message["version"], message["count"], unpack(message["values"]))
