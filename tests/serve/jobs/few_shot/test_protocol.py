from pathlib import Path

import numpy as np

from serve.jobs.few_shot.data import Judgements, load
from serve.jobs.few_shot.protocol import make_split, rehearsal

SLICE = Path(__file__).parents[3] / "data" / "few_shot"
DATA = load(SLICE)


def items_of(rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> set[int]:
    return set(rows[:, :2].ravel().tolist()) - {-1}


def test_nothing_leaks_from_test_people_or_cold_texts() -> None:
    split = make_split(DATA, 5, seed=0)
    cold = set(np.flatnonzero(split.cold).tolist())
    assert not items_of(split.train) & cold
    assert split.train_people.max() + 1 == 88  # four fifths of 110
    assert set(split.test) == {"thumbs", "pairs"}
    for kind, people in split.test.items():
        assert len(people) > 5
        for person in people:
            assert len(person.shots) == 5
            assert not items_of(person.shots) & (items_of(person.warm) | cold)
            assert not items_of(person.warm) & cold
            assert items_of(person.cold) <= cold
            assert (person.shots[:, 2] == 0).all() == (kind == "pairs")


def test_pairs_prefer_what_was_agreed_with() -> None:
    split = make_split(DATA, 3, seed=1)
    agreed = {(p, i) for p, i, v in zip(DATA.people, DATA.first, DATA.values, strict=True) if v > 0}
    rows, owners = split.own["pairs"]
    # Training people are renumbered in order, so the k-th of them is the k-th not tested.
    raters = [{p for p, i in agreed if i == row[0]} for row in rows[:50]]
    assert all(raters)
    assert len(rows) == len(owners)
    assert (rows[:, 2] == 0).all()


def test_split_is_deterministic_and_changes_with_the_seed() -> None:
    one, same, other = (make_split(DATA, 5, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.train, same.train)
    assert not np.array_equal(one.cold, other.cold)


def test_rehearsals_meet_neither_tested_people_nor_cold_texts() -> None:
    split = make_split(DATA, 5, seed=0)
    labels = {tuple(row) for row in split.train.tolist()}
    for again in (rehearsal(DATA, split, 5, 0, fold) for fold in (0, 1)):
        assert again.cold[split.cold].all()
        fresh = set(np.flatnonzero(again.cold & ~split.cold).tolist())
        assert len(fresh) == 8  # a fifth of the forty seen texts
        assert {tuple(row) for row in again.train.tolist()} < labels
        for people in again.test.values():
            assert people
            for person in people:
                assert not (items_of(person.shots) | items_of(person.warm)) & set(np.flatnonzero(again.cold).tolist())
                assert items_of(person.cold) <= fresh


def test_rehearsals_differ_by_fold_and_not_by_shots() -> None:
    split = make_split(DATA, 5, seed=0)
    few, many = (rehearsal(DATA, split, shots, 0, 0) for shots in (2, 5))
    np.testing.assert_array_equal(few.cold, many.cold)
    np.testing.assert_array_equal(few.tested, many.tested)
    assert len(few.test["pairs"]) > len(many.test["pairs"])
    other = rehearsal(DATA, split, 5, 0, 1)
    assert not (other.tested & many.tested).any()
    assert not (other.cold & many.cold & ~split.cold).any()


def test_pairs_from_a_file_are_asked_as_they_are() -> None:
    split = make_split(pairs(), 5, seed=0)
    cold = set(np.flatnonzero(split.cold).tolist())
    assert set(split.test) == {"pairs"}
    for person in split.test["pairs"]:
        assert not items_of(person.warm) & cold
        assert all(set(row[:2].tolist()) & cold for row in person.cold)


def pairs() -> Judgements:
    """Twenty people, thirty pairs each of twenty texts."""
    rng = np.random.default_rng(0)
    M = 600
    first = rng.integers(20, size=M)
    return Judgements(
        name="pairs",
        texts=("text",) * 20,
        contexts=np.zeros(20, dtype=np.int64),
        people=np.repeat(np.arange(20), 30),
        first=first,
        second=(first + 1 + rng.integers(19, size=M)) % 20,
        values=np.ones(M, dtype=np.int64),
    )
