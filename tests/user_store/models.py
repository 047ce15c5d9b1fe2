"""A posterior model simple enough to check by hand: it counts events and adds up their evidence."""

from collections.abc import Sequence

import numpy as np

from user_store.folding import PosteriorModel
from user_store.types import CompletionRecord, FeedbackEvent
from user_store.validation import Arrays

D = 4


def start() -> Arrays:
    return {"count": np.zeros((), np.int64), "shift": np.zeros(D, np.float64), "precision": np.eye(D)}


def fold(arrays: Arrays, events: Sequence[FeedbackEvent]) -> Arrays:
    count = int(arrays["count"])
    shift, precision = (np.asarray(arrays[name], np.float64) for name in ("shift", "precision"))
    for event in events:
        assert event.evidence is not None
        x = event.evidence["x"].astype(np.float64)  # (D,)
        count, shift, precision = count + 1, shift + x, precision + np.outer(x, x)
    return {"count": np.array(count, np.int64), "shift": shift, "precision": precision}


def from_first(_: FeedbackEvent, records: Sequence[CompletionRecord]) -> Arrays | None:
    """Take the first candidate's features; nothing where the answer has only one."""
    features = records[0].features
    assert features is not None
    return {"x": np.resize(features[0], D)} if len(features) > 1 else None


ADDING = PosteriorModel("adding-1", start, fold, from_first)
