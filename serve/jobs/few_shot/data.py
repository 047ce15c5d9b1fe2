"""Reading a folder of judgements: `items.jsonl` and either `ratings.csv` or `pairs.csv`.

Ratings are agree (positive) and disagree (negative); zero is a pass and says nothing. A pair's `pref` is `a1`, `a2` or
`equal`; equal says nothing. Knows nothing of features, splits or models.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


class DataError(ValueError):
    """The folder cannot be read as a set of judgements; the message says what to mend."""


@dataclass(frozen=True, eq=False)
class Judgements:
    """One data set: texts, the context each item id names, and what people said of them."""

    name: str
    texts: tuple[str, ...]  # (n,)
    contexts: Index  # (n,) index of the context an item id names, 0 where none does
    people: Index  # (M,) of each judgement
    first: Index  # (M,) item rated, or item preferred
    second: Index  # (M,) item not preferred; -1 for a rating
    values: Index  # (M,) 1 agree, -1 disagree; 1 for a pair

    @property
    def num_people(self) -> int:
        """U, the number of people."""
        return int(self.people.max()) + 1

    @property
    def has_ratings(self) -> bool:
        """Whether these are ratings rather than pairs."""
        return bool((self.second < 0).any())


def load(folder: Path) -> Judgements:
    """Read a folder. Raises DataError with what is missing or malformed, and where."""
    items, texts = _items(folder / "items.jsonl")
    ratings, pairs = folder / "ratings.csv", folder / "pairs.csv"
    if ratings.exists():
        rows = _rows(ratings, ("user", "item", "rating"))
        parsed = [_rating(line, row, items, ratings) for line, row in rows]
    elif pairs.exists():
        rows = _rows(pairs, ("user", "item_a", "item_b", "pref"))
        parsed = [_pair(line, row, items, pairs) for line, row in rows]
    else:
        raise DataError(f"{folder} holds neither ratings.csv nor pairs.csv")
    said = [(row["user"], *values) for (_, row), values in zip(rows, parsed, strict=True) if values is not None]
    if not said:
        raise DataError(f"{folder} holds no judgement that says anything (only passes or ties)")
    names, people = np.unique([user for user, *_ in said], return_inverse=True)
    if len(names) < 10:
        raise DataError(f"{folder} holds judgements of {len(names)} people; at least 10 are needed")
    numbers = np.array([values for _, *values in said], dtype=np.int64)
    context_of = [item.rpartition(":")[0] for item in items]
    _, contexts = np.unique(context_of, return_inverse=True)
    return Judgements(
        name=folder.resolve().name,
        texts=texts,
        contexts=contexts.astype(np.int64),
        people=people.astype(np.int64),
        first=numbers[:, 0],
        second=numbers[:, 1],
        values=numbers[:, 2],
    )


def _items(path: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    if not path.exists():
        raise DataError(f"{path} is missing")
    items: dict[str, int] = {}
    texts: list[str] = []
    for line, text in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        try:
            record = json.loads(text)
            items[str(record["item"])] = len(texts)
            texts.append(str(record["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f'{path}:{line} is not of the form {{"item": …, "text": …}}') from error
    if len(items) != len(texts):
        raise DataError(f"{path} names an item twice")
    return items, tuple(texts)


def _rows(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path} lacks the column {', '.join(missing)}")
        return [(reader.line_num, row) for row in reader]


def _rating(line: int, row: dict[str, str], items: dict[str, int], path: Path) -> tuple[int, int, int] | None:
    try:
        rating = float(row["rating"])
        item = items[row["item"]]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}:{line} has an unknown item or a rating that is no number") from error
    return None if rating == 0 else (item, -1, 1 if rating > 0 else -1)


def _pair(line: int, row: dict[str, str], items: dict[str, int], path: Path) -> tuple[int, int, int] | None:
    if row["pref"] not in ("a1", "a2", "equal") or row["item_a"] not in items or row["item_b"] not in items:
        raise DataError(f"{path}:{line} has an unknown item or a pref other than a1, a2, equal")
    first, second = items[row["item_a"]], items[row["item_b"]]
    if row["pref"] == "equal" or first == second:
        return None
    return (first, second, 1) if row["pref"] == "a1" else (second, first, 1)
