"""Events into a `FeedbackTable`, person by person: whoever holds the events need not hold everybody's at once.

An item whose features were there before is not kept again: answers to shared questions, and answers judged several
times. Knows nothing about texts, stores or how a population is fitted.
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import DTypeLike

from router.feedback import FeedbackTable
from router.inputs import Features
from router.types import Array, Choice, Comparison, Event, Ranking, Rating, Thumb

RATING_CUTS = (-1.5, -0.5, 0.5, 1.5)
FEWEST_MORE = 4096  # items that room is made for
DIGEST_BYTES = 12  # four million items collide with a probability of 1e-16


class Items:
    """Distinct rows of features, numbered in the order in which they came."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._numbers: dict[bytes, int] = {}  # by digest
        self._rows: Features = np.empty((0, 0), dtype)

    def number(self, features: Array) -> int:
        """Return the number of an item with these features (P,)."""
        row = np.ascontiguousarray(features, self._rows.dtype)
        if self._numbers and row.shape != self._rows.shape[1:]:
            raise ValueError(f"features must have shape {self._rows.shape[1:]} as those before, not {row.shape}")
        digest = hashlib.blake2b(row.tobytes(), digest_size=DIGEST_BYTES).digest()
        number = self._numbers.setdefault(digest, len(self._numbers))
        if number == len(self._rows):
            # In place: a large array's pages are moved, not copied. No view of it exists until it is taken.
            self._rows.resize((number + max(FEWEST_MORE, number // 8), len(row)), refcheck=False)
        self._rows[number] = row
        return number

    def take(self) -> Features:
        """Return all of them, (n, P), and hold none any more."""
        rows, self._rows = self._rows, np.empty((0, 0), self._rows.dtype)
        rows.resize((len(self._numbers), rows.shape[1]), refcheck=False)
        self._numbers = {}
        return rows


class Tabulation:
    """A table in the making. Features are raw (P,) rather than rewarded (D,)."""

    def __init__(self, rating_cuts: Sequence[float] = RATING_CUTS, dtype: DTypeLike = np.float64) -> None:
        self._cuts = (-np.inf, *rating_cuts, np.inf)
        self._items = Items(dtype)
        self._people = array("q")  # of each group
        self._outcomes = array("d"), array("d"), array("d"), array("d")  # of each group: low, high, weight, how many
        self._rows = array("q"), array("q"), array("q")  # group, plus, minus
        self._thresholds = array("d")  # of each row
        self.num_people = 0

    def add(self, events: Iterable[Event]) -> None:
        """Append one more person's events; there may be none."""
        for event in events:
            self._add(event)
        self.num_people += 1

    def table(self, prompts: Array | None = None) -> FeedbackTable:
        """Return the table; nothing can be added afterwards."""
        if not self._rows[0]:
            raise ValueError("there is no feedback to learn from")
        groups, plus, minus = (np.array(column) for column in self._rows)
        lows, highs, weights, num_outcomes = (np.array(column) for column in self._outcomes)
        return FeedbackTable(
            features=self._items.take(),
            people=np.array(self._people),
            groups=groups,
            plus=plus,
            minus=minus,
            thresholds=np.array(self._thresholds),
            lows=lows,
            highs=highs,
            weights=weights,
            num_outcomes=num_outcomes,
            num_people=self.num_people,
            prompts=prompts,
        )

    def _add(self, event: Event) -> None:
        match event:
            case Comparison():
                self._preferred(event.chosen, [event.rejected], event.weight)
            case Choice():
                self._preferred(event.chosen, event.rejected, event.weight)
            case Ranking():
                for place in range(len(event.features) - 1):
                    self._preferred(event.features[place], event.features[place + 1 :], event.weight)
            case Thumb():
                pair = (event.features, event.reference) if event.value > 0 else (event.reference, event.features)
                self._group(0.0, np.inf, event.weight, 2.0)
                self._row(*pair, -float(event.value))
            case Rating():
                num_levels = len(self._cuts) - 1
                if event.level >= num_levels:
                    raise ValueError(f"level {event.level} is above the highest of these cuts, {num_levels - 1}")
                self._group(self._cuts[event.level], self._cuts[event.level + 1], event.weight, float(num_levels))
                self._row(event.features, event.reference, -1.0)
            case _:
                raise ValueError(
                    f"events are comparisons, choices, rankings, thumbs or ratings, not {type(event).__name__}"
                )

    def _preferred(self, chosen: Array, rejected: Iterable[Array], weight: float) -> None:
        others = list(rejected)
        self._group(0.0, np.inf, weight, len(others) + 1.0)
        for other in others:
            self._row(chosen, other, 0.0)

    def _group(self, low: float, high: float, weight: float, num_outcomes: float) -> None:
        self._people.append(self.num_people)
        for column, value in zip(self._outcomes, (low, high, weight, num_outcomes), strict=True):
            column.append(value)

    def _row(self, plus: Array, minus: Array, threshold: float) -> None:
        for column, value in zip(
            self._rows, (len(self._people) - 1, *map(self._items.number, (plus, minus))), strict=True
        ):
            column.append(value)
        self._thresholds.append(threshold)


def tabulate(
    people: Iterable[Sequence[Event]], rating_cuts: Sequence[float] = RATING_CUTS, prompts: Array | None = None
) -> FeedbackTable:
    """Return the table of everyone's events, whose features are raw (P,) rather than rewarded (D,)."""
    tabulation = Tabulation(rating_cuts)
    for events in people:
        tabulation.add(events)
    return tabulation.table(prompts)
