"""Records with as little as a test needs to say."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from user_store.types import CompletionRecord, FeedbackEvent, FeedbackKind, LogPosition, StoredPosterior, UserKey
from user_store.validation import Arrays

ANN = UserKey("acme", "ann")
NOW = 1_700_000_000.0


def features(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def event(event_id: str, key: UserKey = ANN, **changes: Any) -> FeedbackEvent:
    fields: dict[str, Any] = {"kind": FeedbackKind.THUMB, "created_at": NOW, "value": 1, **changes}
    return FeedbackEvent(id=event_id, key=key, **fields)


def completion(completion_id: str, key: UserKey = ANN, **changes: Any) -> CompletionRecord:
    fields: dict[str, Any] = {
        "created_at": NOW,
        "expires_at": NOW + 3600,
        "features": features(7, 2, 3),
        "arms": ("base", "steered"),
        "chosen": 1,
        "artifact_version": "v1",
        **changes,
    }
    return CompletionRecord(id=completion_id, key=key, **fields)


def announced(completion_id: str, key: UserKey = ANN, created_at: float = NOW) -> CompletionRecord:
    return CompletionRecord(id=completion_id, key=key, created_at=created_at, expires_at=created_at + 3600)


def posterior(seed: int = 0, position: LogPosition | None = None) -> StoredPosterior:
    arrays: Arrays = {"mean": features(seed, 4, 8), "count": np.array(seed, dtype=np.int64)}
    return StoredPosterior(arrays, "population-1", position or LogPosition(), updated_at=NOW)
