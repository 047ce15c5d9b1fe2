"""One tenant's latent vectors and the search over them: exact while few, inverted lists (IVF) when many.

The matrix is the truth, the FAISS index a view of it that can be dropped at any time. Not safe for several threads;
`latent_index` gives every shard's work to one thread.
"""

from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Lists = Any  # a faiss.IndexIVFFlat; FAISS's own annotations lack removal by array and the direct map

# Points per centroid that k-means looks at; FAISS warns below 39 and samples above its maximum.
_TRAINING_POINTS = 64
_HASHTABLE = 2  # faiss.DirectMap.Hashtable


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How a search trades exactness for time.

    Up to `exact_limit` people a search compares with everyone. Above, people lie in about 4·√N lists, and the
    `num_probes` nearest lists are searched.
    """

    exact_limit: int = 20_000
    num_probes: int = 48

    def __post_init__(self) -> None:
        if self.exact_limit < 256 or self.num_probes < 1:
            raise ValueError("exact_limit must be at least 256 and num_probes at least 1")


@dataclass
class Shard:
    """Vectors of one tenant's people; `rows` and `users` are each other's inverse."""

    dim: int
    users: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    matrix: Vectors = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (capacity, D)
    ivf: Lists = None
    trained_size: int = 0
    dirty: set[int] | None = None  # rows changed since a training began

    def __post_init__(self) -> None:
        if self.matrix.shape[1:] != (self.dim,):
            self.matrix = np.zeros((0, self.dim), np.float32)

    @property
    def vectors(self) -> Vectors:
        """Everyone's vectors, (U, D), in order of `users`."""
        return self.matrix[: len(self.users)]

    def upsert(self, user: str, vector: Vectors) -> None:
        """Add or move a person. Amortised O(D), and O(D·√U) with lists."""
        row = self.rows.get(user)
        if row is None:
            row = self.rows[user] = len(self.users)
            self.users.append(user)
            if row == len(self.matrix):
                grown = np.zeros((max(64, 2 * row), self.dim), np.float32)
                grown[:row] = self.matrix
                self.matrix = grown
        else:
            self._unlist([row])
        self.matrix[row] = vector
        self._enlist(row)

    def remove(self, user: str) -> bool:
        """Take a person out; the last one moves into their row."""
        row = self.rows.pop(user, None)
        if row is None:
            return False
        last = len(self.users) - 1
        self._unlist([row, last] if row != last else [row])
        moved = self.users.pop()
        if row != last:
            self.users[row] = moved
            self.rows[moved] = row
            self.matrix[row] = self.matrix[last]
            self._enlist(row)
        self.matrix[last] = 0  # nothing of a deleted person stays in memory or in a snapshot
        if self.dirty is not None:
            self.dirty |= {row, last}
        return True

    def _unlist(self, rows: list[int]) -> None:
        if self.ivf is not None:
            self.ivf.remove_ids(np.array(rows, np.int64))

    def _enlist(self, row: int) -> None:
        if self.ivf is not None:
            self.ivf.add_with_ids(self.matrix[row : row + 1], np.array([row], np.int64))
        if self.dirty is not None:
            self.dirty.add(row)

    def search(self, vector: Vectors, k: int) -> list[tuple[str, float]]:
        """Find the k nearest people and their Euclidean distances, nearest first."""
        k = min(k, len(self.users))
        if k == 0:
            return []
        query = vector.reshape(1, -1)
        squared, rows = self.ivf.search(query, k) if self.ivf else faiss.knn(query, self.vectors, k)
        found = [(int(row), float(d)) for row, d in zip(rows[0], squared[0], strict=True) if 0 <= row < len(self.users)]
        return [(self.users[row], max(d, 0.0) ** 0.5) for row, d in found]

    def needs_training(self, options: IndexOptions) -> bool:
        """Say whether lists are missing, or were made for less than half of today's people."""
        if self.dirty is not None or len(self.users) <= options.exact_limit:
            return False
        return len(self.users) > 2 * self.trained_size

    def begin_training(self) -> Vectors:
        """Copy the vectors to train on, and note changes from now on."""
        self.dirty = set()
        return self.vectors.copy()

    def abandon_training(self, size: int) -> None:
        """Go on without new lists until the shard has doubled once more."""
        self.dirty, self.trained_size = None, max(size, 1)

    def finish_training(self, ivf: Lists, size: int) -> None:
        """Take over lists made from a copy, after bringing them up to date with what changed meanwhile."""
        changed = sorted(self.dirty or ())
        self.ivf, self.dirty, self.trained_size = ivf, None, max(size, 1)
        ivf.remove_ids(np.array(changed, np.int64))
        current = [row for row in changed if row < len(self.users)]
        if current:
            ivf.add_with_ids(self.matrix[current], np.array(current, np.int64))


def train_lists(vectors: Vectors, options: IndexOptions) -> Lists:
    """Build inverted lists over a copy of everyone's vectors, (U, D); seconds for 100,000 people."""
    num_lists = max(1, min(int(4 * len(vectors) ** 0.5), len(vectors) // 39))
    dim = vectors.shape[1]
    ivf: Lists = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, num_lists)
    ivf.cp.max_points_per_centroid = _TRAINING_POINTS
    ivf.train(vectors)
    # A table from row to list, without which a removal would scan all lists.
    ivf.set_direct_map_type(_HASHTABLE)
    ivf.add_with_ids(vectors, np.arange(len(vectors), dtype=np.int64))
    ivf.nprobe = min(options.num_probes, num_lists)
    return ivf
