"""Everyone's feedback as one table: items' raw features, and rows that say which item was preferred to which, by whom.

The form in which populations are learned: a row costs a few integers however large the features are.
Knows nothing about texts, stores or how a population is fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from router.inputs import Features, Inputs, covariance, is_finite
from router.types import Array, Evidence, Population, as_array

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FeedbackTable:
    """Rows of feedback over n items; groups as in `Evidence`, sorted by person."""

    features: Features  # (n, P) raw; kept in the precision given, and never copied
    people: Index  # (G,) ascending from 0
    groups: Index  # (R,) ascending from 0 without gaps
    plus: Index  # (R,) item whose reward adds to the score
    minus: Index  # (R,) item whose reward is taken off
    thresholds: Array  # (R,) coefficient of the person's thumb threshold
    lows: Array  # (G,)
    highs: Array  # (G,)
    weights: Array  # (G,)
    num_outcomes: Array  # (G,)
    num_people: int
    prompts: Array | None = None  # (U, Q) mean prompt features of each person

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or not is_finite(self.features):
            raise ValueError("features must be finite and have shape (items, raw features)")
        n = self.features.shape[0]
        G, R = len(self.people), len(self.groups)
        for name, length in (("lows", G), ("highs", G), ("weights", G), ("num_outcomes", G), ("plus", R), ("minus", R)):
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name} must have {length} numbers, but has {len(getattr(self, name))}")
        if R == 0:
            raise ValueError("there is no feedback to learn from")
        if min(self.plus.min(), self.minus.min()) < 0 or max(self.plus.max(), self.minus.max()) >= n:
            raise ValueError(f"plus and minus must name items 0 to {n - 1}")
        if (np.diff(self.people) < 0).any() or self.people[0] < 0 or self.people[-1] >= self.num_people:
            raise ValueError(f"people must ascend within 0 to {self.num_people - 1}; sort the table by person")
        if self.prompts is not None:
            as_array("prompts", self.prompts, (self.num_people, None))

    @property
    def row_people(self) -> Index:
        """Person of each row, (R,)."""
        return self.people[self.groups]

    def differences(self) -> sparse.csr_matrix:
        """Return the sparse (R, n) operator from items' rewards to rows' scores."""
        R = len(self.groups)
        rows = np.arange(R)
        return sparse.csr_matrix(
            (np.repeat([1.0, -1.0], R), (np.r_[rows, rows], np.r_[self.plus, self.minus])),
            shape=(R, self.features.shape[0]),
        )

    def reward_features(self, population: Population) -> Features:
        """Return the items' reward features (n, D)."""
        return Inputs(self.features, population.center, 1.0 / population.scale) @ population.basis.T

    def reward_covariance(self, population: Population) -> Array:
        """Return the covariance (D, D) of the items' reward features."""
        return covariance(self.reward_features(population))

    def evidence(self, population: Population) -> "People":
        """Return each person's evidence, (U,), ready to be mapped over people one by one."""
        return self.evidence_of(self.reward_features(population), population.base_weights)

    def evidence_of(self, phi: Features, base_weights: Array) -> "People":
        """Return each person's evidence for the items' reward features `phi` (n, D)."""
        designs = np.empty((len(self.groups), phi.shape[1] + 1), phi.dtype)
        np.subtract(phi[self.plus], phi[self.minus], out=designs[:, :-1])
        designs[:, -1] = self.thresholds
        base = np.asarray(phi @ base_weights, np.float64)
        cuts = np.searchsorted(self.people, np.arange(self.num_people + 1))
        return People(
            designs=designs,
            offsets=base[self.plus] - base[self.minus],
            groups=self.groups,
            lows=self.lows,
            highs=self.highs,
            weights=self.weights,
            num_outcomes=self.num_outcomes,
            group_cuts=cuts,
            row_cuts=np.searchsorted(self.groups, cuts),
        )

    def subset(self, people: Index) -> "FeedbackTable":
        """Return the table of some people (ascending), renumbered from 0; items stay."""
        groups = np.isin(self.people, people)
        rows = groups[self.groups]
        return FeedbackTable(
            features=self.features,
            people=np.searchsorted(people, self.people[groups]),
            groups=(np.cumsum(groups) - 1)[self.groups[rows]],
            plus=self.plus[rows],
            minus=self.minus[rows],
            thresholds=self.thresholds[rows],
            lows=self.lows[groups],
            highs=self.highs[groups],
            weights=self.weights[groups],
            num_outcomes=self.num_outcomes[groups],
            num_people=len(people),
            prompts=None if self.prompts is None else self.prompts[people],
        )

    def compact(self) -> "FeedbackTable":
        """Return the same feedback over a copy of the items it names: for some of many people."""
        items, places = np.unique(np.concatenate([self.plus, self.minus]), return_inverse=True)
        plus, minus = np.split(places.astype(np.int64), 2)
        return replace(self, features=self.features[items], plus=plus, minus=minus)


@dataclass(frozen=True, eq=False)
class People(Sequence[Evidence]):
    """Everyone's evidence in a few arrays; a person's is put together when it is asked for."""

    designs: Features  # (R, L)
    offsets: Array  # (R,)
    groups: Index  # (R,)
    lows: Array  # (G,)
    highs: Array  # (G,)
    weights: Array  # (G,)
    num_outcomes: Array  # (G,)
    group_cuts: Index  # (U + 1,) where each person's groups start
    row_cuts: Index  # (U + 1,) where their rows start

    def __len__(self) -> int:
        """U."""
        return len(self.group_cuts) - 1

    @property
    def group_people(self) -> Index:
        """Person of each group, (G,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.group_cuts))

    @property
    def group_starts(self) -> Index:
        """Where each group's rows start, (G,)."""
        return np.flatnonzero(np.diff(self.groups, prepend=-1))

    @overload
    def __getitem__(self, index: int) -> Evidence: ...
    @overload
    def __getitem__(self, index: slice) -> "People": ...
    def __getitem__(self, index: int | slice) -> "Evidence | People":
        """Return one person's evidence, or that of a range of people (without steps)."""
        if isinstance(index, slice):
            return self._range(*index.indices(len(self)))
        person = range(len(self))[index]
        start, stop = (int(cut) for cut in self.group_cuts[person : person + 2])
        rows = slice(*self.row_cuts[person : person + 2])
        return Evidence(
            designs=np.asarray(self.designs[rows], np.float64),
            offsets=self.offsets[rows],
            groups=self.groups[rows] - start,
            lows=self.lows[start:stop],
            highs=self.highs[start:stop],
            weights=self.weights[start:stop],
            num_outcomes=self.num_outcomes[start:stop],
            times_s=np.zeros(stop - start),
            event_ids=("",) * (stop - start),
            targets=("",) * (stop - start),
        )

    def _range(self, first: int, last: int, step: int) -> "People":
        if step != 1:
            raise ValueError("take a range of people without steps, or one at a time")
        group_cuts, row_cuts = (cuts[first : max(first, last) + 1] for cuts in (self.group_cuts, self.row_cuts))
        groups, rows = slice(group_cuts[0], group_cuts[-1]), slice(row_cuts[0], row_cuts[-1])
        return People(
            designs=self.designs[rows],
            offsets=self.offsets[rows],
            groups=self.groups[rows] - group_cuts[0],
            lows=self.lows[groups],
            highs=self.highs[groups],
            weights=self.weights[groups],
            num_outcomes=self.num_outcomes[groups],
            group_cuts=group_cuts - group_cuts[0],
            row_cuts=row_cuts - row_cuts[0],
        )

    def of(self, members: Index) -> "People":
        """Return the evidence of some people (B,), in their order."""
        groups, rows = _spans(self.group_cuts, members), _spans(self.row_cuts, members)
        group_cuts, row_cuts = (
            np.concatenate([[0], np.cumsum(np.diff(cuts)[members])]) for cuts in (self.group_cuts, self.row_cuts)
        )
        moved = np.repeat(group_cuts[:-1] - self.group_cuts[members], np.diff(row_cuts))
        return People(
            designs=self.designs[rows],
            offsets=self.offsets[rows],
            groups=self.groups[rows] + moved,
            lows=self.lows[groups],
            highs=self.highs[groups],
            weights=self.weights[groups],
            num_outcomes=self.num_outcomes[groups],
            group_cuts=group_cuts,
            row_cuts=row_cuts,
        )


def _spans(cuts: Index, members: Index) -> Index:
    """Return the numbers from each member's cut to the next."""
    lengths = np.diff(cuts)[members]
    ends = np.cumsum(lengths)
    return np.asarray(np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(cuts[members] - ends + lengths, lengths))


def binary_table(features: Array, people: Index, plus: Index, minus: Index, thresholds: Array) -> FeedbackTable:
    """Return a table of comparisons and thumbs, one row an event, for people numbered from 0 in any order."""
    order = np.argsort(people, kind="stable")
    R = len(order)
    return FeedbackTable(
        features=features,
        people=people[order],
        groups=np.arange(R),
        plus=plus[order],
        minus=minus[order],
        thresholds=thresholds[order],
        lows=np.zeros(R),
        highs=np.full(R, np.inf),
        weights=np.ones(R),
        num_outcomes=np.full(R, 2.0),
        num_people=int(people.max(initial=-1)) + 1,
    )
