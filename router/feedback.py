"""Everyone's feedback as one table: items' raw features, and rows that say which item was preferred to which, by whom.

The form in which populations are learned: a row costs a few integers however large the features are.
Knows nothing about texts, stores or how a population is fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from router.types import Array, Choice, Comparison, Event, Evidence, Population, Ranking, Rating, Thumb, as_array

Index = NDArray[np.int64]
RATING_CUTS = (-1.5, -0.5, 0.5, 1.5)


@dataclass(frozen=True, eq=False)
class FeedbackTable:
    """Rows of feedback over n items; groups as in `Evidence`, sorted by person."""

    features: Array  # (n, P) raw
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
        n = as_array("features", self.features, (None, None)).shape[0]
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

    def evidence(self, population: Population) -> list[Evidence]:
        """Return each person's evidence, (U,), ready to be mapped over people one by one."""
        return self.evidence_of(population.features(self.features), population.base_weights)

    def evidence_of(self, phi: Array, base_weights: Array) -> list[Evidence]:
        """Return each person's evidence for the items' reward features `phi` (n, D)."""
        base = phi @ base_weights
        cuts = np.searchsorted(self.people, np.arange(self.num_people + 1))
        rows = np.searchsorted(self.groups, cuts)
        result = []
        for start, stop, first, last in zip(cuts[:-1], cuts[1:], rows[:-1], rows[1:], strict=True):
            plus, minus = self.plus[first:last], self.minus[first:last]
            result.append(
                Evidence(
                    designs=np.column_stack([phi[plus] - phi[minus], self.thresholds[first:last]]),
                    offsets=base[plus] - base[minus],
                    groups=self.groups[first:last] - start,
                    lows=self.lows[start:stop],
                    highs=self.highs[start:stop],
                    weights=self.weights[start:stop],
                    num_outcomes=self.num_outcomes[start:stop],
                    times_s=np.zeros(stop - start),
                    event_ids=("",) * int(stop - start),
                    targets=("",) * int(stop - start),
                )
            )
        return result

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


def tabulate(
    people: Sequence[Sequence[Event]], rating_cuts: Sequence[float] = RATING_CUTS, prompts: Array | None = None
) -> FeedbackTable:
    """Return the table of everyone's events, whose features are raw (P,) rather than rewarded (D,)."""
    items: list[Array] = []
    rows: list[tuple[int, int, int, float]] = []  # group, plus, minus, threshold
    groups: list[tuple[int, float, float, float, float]] = []  # person, low, high, weight, outcomes
    cuts = (-np.inf, *rating_cuts, np.inf)
    for person, events in enumerate(people):
        for event in events:
            first = len(items)
            match event:
                case Comparison():
                    items += [event.chosen, event.rejected]
                    rows.append((len(groups), first, first + 1, 0.0))
                    groups.append((person, 0.0, np.inf, event.weight, 2.0))
                case Choice():
                    items += [event.chosen, *event.rejected]
                    n = len(event.rejected)
                    rows += [(len(groups), first, first + 1 + j, 0.0) for j in range(n)]
                    groups.append((person, 0.0, np.inf, event.weight, n + 1.0))
                case Ranking():
                    items += list(event.features)
                    n = len(event.features)
                    for i in range(n - 1):
                        rows += [(len(groups), first + i, first + j, 0.0) for j in range(i + 1, n)]
                        groups.append((person, 0.0, np.inf, event.weight, float(n - i)))
                case Thumb():
                    items += [event.features, event.reference]
                    plus = first if event.value > 0 else first + 1
                    rows.append((len(groups), plus, 2 * first + 1 - plus, -float(event.value)))
                    groups.append((person, 0.0, np.inf, event.weight, 2.0))
                case Rating():
                    if event.level > len(rating_cuts):
                        raise ValueError(f"level {event.level} is above the highest of these cuts, {len(rating_cuts)}")
                    items += [event.features, event.reference]
                    rows.append((len(groups), first, first + 1, -1.0))
                    low, high = cuts[event.level], cuts[event.level + 1]
                    groups.append((person, low, high, event.weight, len(rating_cuts) + 1.0))
                case _:
                    raise ValueError(
                        f"events are comparisons, choices, rankings, thumbs or ratings, not {type(event).__name__}"
                    )
    if not rows:
        raise ValueError("there is no feedback to learn from")
    row, group = np.array(rows), np.array(groups)
    return FeedbackTable(
        features=np.array(items),
        people=group[:, 0].astype(np.int64),
        groups=row[:, 0].astype(np.int64),
        plus=row[:, 1].astype(np.int64),
        minus=row[:, 2].astype(np.int64),
        thresholds=row[:, 3],
        lows=group[:, 1],
        highs=group[:, 2],
        weights=group[:, 3],
        num_outcomes=group[:, 4],
        num_people=len(people),
        prompts=prompts,
    )
