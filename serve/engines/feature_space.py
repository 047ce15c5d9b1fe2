"""What a model is read and steered in: layers, a projection of pooled states, directions to add, what tokens say.

One feature space belongs to one model and outlives the artifacts fitted in it: an artifact's reward basis is a small
matrix over these P features, and its steering directions are combinations of these columns, so that publishing an
artifact never touches an engine, and features stored with feedback stay usable. Knows neither vLLM nor people.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from serve.engines.worker_messages import FloatArray, Projection, TokenFeatures, WorkerConfig
from serve.errors import ConfigurationError

DESCRIPTION = "feature_space.json"
ARRAYS = "feature_space.safetensors"
TOKENS = "token_features.safetensors"


@dataclass(frozen=True, eq=False, slots=True)
class FeatureSpace:
    """Layer i is the output of the i-th decoder layer, from 0."""

    model: str  # the name of the model it was measured on
    pooled_layers: tuple[int, ...]
    steered_layer: int
    projection: Projection  # of the pooled layers end to end, to P features
    directions: FloatArray  # (H, P): Cov(states at the steered layer, features)
    max_dose: float  # largest length of an added vector, as a share of the residual norm; fluent below it
    token_features: TokenFeatures | None = None  # what tilts logits

    def __post_init__(self) -> None:
        if self.directions.shape[1:] != self.projection.basis.shape[:1]:
            raise ValueError(
                f"The directions {self.directions.shape} need one column for each of the "
                f"{self.projection.basis.shape[0]} features."
            )
        if self.token_features is not None and self.token_features.features.shape[1] != self.num_features:
            raise ValueError(
                f"Tokens have {self.token_features.features.shape[1]} features, the projection {self.num_features}."
            )

    @property
    def num_features(self) -> int:
        """P, the number of features."""
        return int(self.projection.basis.shape[0])

    @property
    def id(self) -> str:
        """A name for exactly these arrays: features of one id may be compared and kept together."""
        digest = hashlib.sha256(json.dumps([self.model, self.pooled_layers, self.steered_layer]).encode())
        for array in (self.projection.basis, self.projection.mean, self.projection.scale, self.directions):
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return digest.hexdigest()[:16]

    @property
    def engine_id(self) -> str:
        """A name for all that an engine is configured with: another table of tokens reads the same features."""
        tokens = self.token_features
        if tokens is None:
            return self.id
        digest = hashlib.sha256(self.id.encode())
        digest.update(np.ascontiguousarray(tokens.tokens, dtype="<i8").tobytes())
        for array in (tokens.shares, tokens.features):
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return digest.hexdigest()[:16]

    def worker_config(self) -> WorkerConfig:
        """Give what the worker extension is configured with."""
        return WorkerConfig(
            self.pooled_layers,
            self.steered_layer,
            self.directions,
            self.max_dose,
            self.projection,
            version=self.id,
            token_features=self.token_features,
        )

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            "basis": self.projection.basis,
            "mean": self.projection.mean,
            "scale": self.projection.scale,
            "directions": self.directions,
        }
        stored = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
        save_file(stored, folder / ARRAYS)
        (folder / TOKENS).unlink(missing_ok=True)
        if self.token_features is not None:
            tokens = self.token_features
            stored = {
                "tokens": np.ascontiguousarray(tokens.tokens, np.int64),
                "shares": np.ascontiguousarray(tokens.shares, np.float32),
                "features": np.ascontiguousarray(tokens.features, np.float32),
            }
            save_file(stored, folder / TOKENS)
        description = {
            "model": self.model,
            "pooled_layers": list(self.pooled_layers),
            "steered_layer": self.steered_layer,
            "max_dose": self.max_dose,
            "id": self.id,
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> FeatureSpace:
        """Read it from a folder. Raises ConfigurationError if it is damaged."""
        try:
            description = json.loads((folder / DESCRIPTION).read_text())
            arrays = load_file(folder / ARRAYS)
            space = cls(
                model=description["model"],
                pooled_layers=tuple(description["pooled_layers"]),
                steered_layer=description["steered_layer"],
                projection=Projection(arrays["basis"], arrays["mean"], arrays["scale"]),
                directions=arrays["directions"],
                max_dose=description["max_dose"],
                token_features=_read_tokens(folder / TOKENS),
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ConfigurationError(f"The feature space in {folder} cannot be read: {error}") from error
        if space.id != description["id"]:
            raise ConfigurationError(f"The feature space in {folder} is damaged: its arrays do not match its id.")
        return space


def _read_tokens(path: Path) -> TokenFeatures | None:
    if not path.exists():
        return None
    arrays = load_file(path)
    return TokenFeatures(arrays["tokens"], arrays["shares"], arrays["features"])
