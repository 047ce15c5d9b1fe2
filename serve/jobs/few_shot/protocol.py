"""Who and what is held out: people for testing, texts nobody has seen, and each person's shots and questions.

A fifth of the people are tested and a fifth of the texts are cold: no training label and no shot touches them. Shots
are nested (the first 2 are among the first 5) and, where judgements are ratings, touch no text of a warm question.
Rehearsals hold out people and texts of those left in the same way. Knows nothing of features and models.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from serve.jobs.few_shot.data import Index, Judgements

NUM_FOLDS = 5  # one of which is held out, of people and of texts
MAX_QUESTIONS = 30
Rows = Index  # (M, 3): item whose reward adds, item whose reward is taken off (-1: the reference), threshold sign
Limits = tuple[NDArray[np.bool_], int]  # which judgements (M,) are of warm items; the most shots


@dataclass(frozen=True, eq=False)
class Person:
    """One person's shots and questions; the answer to every row is 'yes, the first'."""

    shots: Rows
    warm: Rows
    cold: Rows

    @property
    def questions(self) -> Rows:
        """The warm questions and then the cold ones: asked together, the shots are learned from once."""
        return np.concatenate([self.warm, self.cold])


Ask = Callable[[Judgements, Index, Limits, np.random.Generator], Person | None]


@dataclass(frozen=True, eq=False)
class Split:
    """What is trained on, and what is asked."""

    cold: NDArray[np.bool_]  # (n,)
    tested: NDArray[np.bool_]  # (U,)
    train: Rows
    train_people: Index  # (M,) from 0
    own: dict[str, tuple[Rows, Index]]  # kind -> training labels of that kind, and whose
    test: dict[str, tuple[Person, ...]]  # kind -> people


def make_split(data: Judgements, max_shots: int, seed: int) -> Split:
    """Split one data set; deterministic under `seed`."""
    rng = np.random.default_rng(seed)
    cold = _fifth(rng.permutation(len(data.texts)), len(data.texts), 0)
    tested = _fifth(rng.permutation(data.num_people), data.num_people, 0)
    return _split(data, cold, tested, max_shots, rng)


def rehearsal(data: Judgements, split: Split, max_shots: int, seed: int, fold: int) -> Split:
    """Split the training people and the seen texts of a split once more, to learn about learning itself.

    A fifth of these people are tested and a fifth of these texts are cold besides the split's own; other fifths in
    every `fold`, 0 to 4, and the same ones whatever `max_shots`.
    """
    rng = np.random.default_rng([seed, 1])
    kept = ~split.tested[data.people] & ~_touches(data, split.cold)
    _, people = np.unique(data.people[kept], return_inverse=True)
    left = replace(data, people=people, first=data.first[kept], second=data.second[kept], values=data.values[kept])
    cold = split.cold | _fifth(rng.permutation(np.flatnonzero(~split.cold)), len(split.cold), fold)
    tested = _fifth(rng.permutation(left.num_people), left.num_people, fold)
    return _split(left, cold, tested, max_shots, rng)


def _fifth(order: Index, size: int, fold: int) -> NDArray[np.bool_]:
    """Mark (size,) the fold's fifth of those in `order`."""
    marked = np.zeros(size, dtype=bool)
    marked[np.array_split(order, NUM_FOLDS)[fold]] = True
    return marked


def _split(
    data: Judgements, cold: NDArray[np.bool_], tested: NDArray[np.bool_], max_shots: int, rng: np.random.Generator
) -> Split:
    U = data.num_people
    order = rng.permutation(len(data.people))
    order = order[np.argsort(data.people[order], kind="stable")]
    bounds = np.searchsorted(data.people[order], np.arange(U + 1))
    judged = [order[start:stop] for start, stop in pairwise(bounds)]
    kinds = ("thumbs", "pairs") if data.has_ratings else ("pairs",)
    is_warm = ~_touches(data, cold)
    rows = _as_rows(data, order)
    keep = is_warm[order] & ~tested[data.people[order]]
    train_people = np.searchsorted(np.flatnonzero(~tested), data.people[order][keep])
    own = {kinds[0]: (rows[keep], train_people)}
    if data.has_ratings:
        own["pairs"] = _matched(rows[keep], train_people)
    test: dict[str, tuple[Person, ...]] = {}
    for kind in kinds:
        ask = _thumbs if kind == "thumbs" else _votes_as_pairs if data.has_ratings else _pairs
        test[kind] = _people(ask, data, [judged[u] for u in np.flatnonzero(tested)], (is_warm, max_shots), rng)
    return Split(cold, tested, rows[keep], train_people, own, test)


def _touches(data: Judgements, items: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the judgements (M,) of which an item is among those marked (n,)."""
    return np.asarray(items[data.first] | ((data.second >= 0) & items[data.second]))


def _people(
    ask: Ask, data: Judgements, judged: list[Index], limits: Limits, rng: np.random.Generator
) -> tuple[Person, ...]:
    people = [ask(data, chosen, limits, rng) for chosen in judged]
    return tuple(person for person in people if person is not None)


def _as_rows(data: Judgements, chosen: Index) -> Rows:
    up = data.values[chosen] > 0
    first, second = data.first[chosen], data.second[chosen]
    threshold = np.where(second < 0, np.where(up, -1, 1), 0)
    return np.column_stack([np.where(up, first, -1), np.where(up, second, first), threshold])


def _thumbs(data: Judgements, chosen: Index, limits: Limits, _rng: np.random.Generator) -> Person | None:
    is_warm, max_shots = limits
    warm, cold = chosen[is_warm[chosen]], chosen[~is_warm[chosen]]
    if len(warm) <= max_shots:
        return None
    questions = warm[max_shots : max_shots + MAX_QUESTIONS]
    return Person(_as_rows(data, warm[:max_shots]), _as_rows(data, questions), _as_rows(data, cold[:MAX_QUESTIONS]))


_pairs = _thumbs  # a pair is a judgement like a rating: the same shots and questions


def _votes_as_pairs(data: Judgements, chosen: Index, limits: Limits, rng: np.random.Generator) -> Person | None:
    """Pair what a person agreed with and what the same person disagreed with."""
    is_warm, max_shots = limits
    up, down = chosen[data.values[chosen] > 0], chosen[data.values[chosen] < 0]
    liked, disliked = data.first[up[is_warm[up]]], data.first[down[is_warm[down]]]
    if min(len(liked), len(disliked)) <= max_shots:
        return None
    shots = np.column_stack([liked[:max_shots], disliked[:max_shots], np.zeros(max_shots, dtype=np.int64)])
    cold = _cross(data.first[up[~is_warm[up]]], data.first[down[~is_warm[down]]], rng)
    return Person(shots, _cross(liked[max_shots:], disliked[max_shots:], rng), cold)


def _cross(liked: Index, disliked: Index, rng: np.random.Generator) -> Rows:
    picked = rng.permutation(len(liked) * len(disliked))[:MAX_QUESTIONS]
    if not len(picked):
        return np.zeros((0, 3), dtype=np.int64)
    return np.column_stack([liked[picked // len(disliked)], disliked[picked % len(disliked)], np.zeros_like(picked)])


def _matched(rows: Rows, people: Index) -> tuple[Rows, Index]:
    """Match each agreement of a person with one disagreement of theirs, item-disjoint."""
    pairs, owners = [], []
    for person in np.unique(people):
        labels = rows[people == person]
        liked, disliked = labels[labels[:, 2] < 0, 0], labels[labels[:, 2] > 0, 1]
        count = min(len(liked), len(disliked))
        pairs.append(np.column_stack([liked[:count], disliked[:count], np.zeros(count, dtype=np.int64)]))
        owners.append(np.full(count, person))
    return np.concatenate(pairs), np.concatenate(owners)
