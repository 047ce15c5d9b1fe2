"""From texts to the raw features all models share: text components, context indicators, one indicator per seen item.

`Featurizer` is the seam where an engine's own states can take the place of a sentence-embedding matrix.
Knows nothing of people or models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.population import FeatureLayout
from router.types import Array
from serve.jobs.few_shot.data import DataError, Index

Featurizer = Callable[[Sequence[str]], Array]  # texts (n,) -> features (n, P)

NUM_COMPONENTS = 48
CONTEXT_SCALE = 0.5
ITEM_BASE_SCALE = 3.0  # how freely a seen item's shared reward leaves what its text says
ITEM_TASTE_SCALE = 0.5
COMPONENT_SCALE = 3.0  # of a text component as a taste


@dataclass(frozen=True, eq=False)
class Inputs:
    """Raw features of n items and, last, of the reference that a thumb is judged against."""

    features: Array  # (n + 1, P)
    layout: FeatureLayout
    num_components: int  # columns that come from the text alone
    num_contexts: int  # columns that follow: indicators of the context; 0 where there is only one
    num_shared: int  # columns before the seen items' indicators

    @property
    def base(self) -> Array:
        """Inputs of the shared reward, (n + 1, P)."""
        return np.asarray(self.features * self.layout.base_scales)

    @property
    def tastes(self) -> Array:
        """Inputs of people's differences, (n + 1, P)."""
        return np.asarray(self.features * self.layout.taste_scales)

    @property
    def is_seen(self) -> NDArray[np.bool_]:
        """Whether an item has an indicator of its own, (n + 1,); the reference counts as seen."""
        seen = np.asarray(self.features[:, self.num_shared :] != 0.0).sum(axis=1) > 0
        seen[-1] = True
        return np.asarray(seen)

    @property
    def foretelling(self) -> Array:
        """What is known of a text before anybody has judged it, (n + 1, C'): its components and its context."""
        known = self.num_components + self.num_contexts
        return self.base[:, :known]

    @property
    def text(self) -> Array:
        """Text components alone, (n + 1, C)."""
        return self.features[:, : self.num_components]


def matrix_file(path: Path) -> Featurizer:
    """Return the featurizer that reads a `.npy` matrix whose row i belongs to text i."""

    def read(texts: Sequence[str]) -> Array:
        try:
            features = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not a .npy matrix") from error
        if features.ndim != 2 or features.shape[0] != len(texts):
            raise DataError(f"{path} has shape {features.shape}; it needs one row for each of the {len(texts)} items")
        if not np.isfinite(features).all():
            raise DataError(f"{path} holds numbers that are not finite")
        return np.asarray(features, dtype=np.float64)

    return read


def make_inputs(features: Array, contexts: Index, cold: NDArray[np.bool_]) -> Inputs:
    """Build everyone's inputs; components are those of the seen items only."""
    n, num_contexts = len(features), int(contexts.max()) + 1
    centered = features - features[~cold].mean(axis=0)
    _, _, components = np.linalg.svd(centered[~cold], full_matrices=False)
    text = centered @ components[:NUM_COMPONENTS].T
    text /= max(float(np.sqrt((text[~cold] ** 2).sum(axis=1).mean())), 1e-12)
    context = np.eye(num_contexts)[contexts] if num_contexts > 1 else np.zeros((n, 0))
    crossed = (text[:, None, :] * context[:, :, None]).reshape(n, -1)
    seen = np.eye(n)[:, ~cold]
    blocks = [  # columns, scale in the shared reward, scale in tastes
        (text, 1.0, 1.0),
        (context, CONTEXT_SCALE, 0.0),
        (crossed, CONTEXT_SCALE, 0.0),
        (seen, ITEM_BASE_SCALE, ITEM_TASTE_SCALE),
    ]
    raw = np.hstack([columns for columns, _, _ in blocks])
    raw = np.vstack([raw, np.zeros(raw.shape[1])])
    P, C = raw.shape[1], text.shape[1]
    layout = FeatureLayout(
        center=np.zeros(P),
        scale=np.ones(P),
        base_scales=np.concatenate([np.full(columns.shape[1], scale) for columns, scale, _ in blocks]),
        taste_scales=np.concatenate([np.full(columns.shape[1], scale) for columns, _, scale in blocks]),
        fixed_rows=COMPONENT_SCALE * np.eye(C, P),
    )
    return Inputs(raw, layout, C, context.shape[1], P - seen.shape[1])
