import json
from pathlib import Path

import pytest

from serve.jobs.few_shot.data import DataError, load

ITEMS = [
    {"item": "town:0", "text": "Parks."},
    {"item": "town:1", "text": "Roads."},
    {"item": "lake:0", "text": "Boats."},
]


def folder(path: Path, **files: str) -> Path:
    (path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return path


def test_ratings_are_read_and_passes_left_out(tmp_path: Path) -> None:
    rows = "".join(f"u{u},town:{u % 2},{1 if u % 3 else -1}\n" for u in range(12))
    data = load(folder(tmp_path, ratings_csv="user,item,rating\n" + rows + "u0,lake:0,0\n"))
    assert data.has_ratings
    assert len(data.people) == 12
    assert data.values.tolist().count(-1) == 4
    assert data.texts == ("Parks.", "Roads.", "Boats.")
    assert data.contexts[0] == data.contexts[1] != data.contexts[2]


def test_pairs_put_the_preferred_first_and_leave_ties_out(tmp_path: Path) -> None:
    rows = "".join(f"u{u},town:0,town:1,{'a1' if u % 2 else 'a2'}\n" for u in range(10))
    data = load(folder(tmp_path, pairs_csv="user,item_a,item_b,pref\n" + rows + "u0,town:0,lake:0,equal\n"))
    assert not data.has_ratings
    assert sorted(zip(data.first.tolist(), data.second.tolist(), strict=True)) == [(0, 1)] * 5 + [(1, 0)] * 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither ratings.csv nor pairs.csv"),
        ({"ratings_csv": "user,item\nu,town:0\n"}, "lacks the column rating"),
        ({"ratings_csv": "user,item,rating\nu,town:9,1\n"}, "ratings.csv:2 has an unknown item"),
        ({"ratings_csv": "user,item,rating\nu,town:0,yes\n"}, "rating that is no number"),
        ({"ratings_csv": "user,item,rating\nu,town:0,0\n"}, "no judgement that says anything"),
        ({"ratings_csv": "user,item,rating\nu,town:0,1\n"}, "at least 10 are needed"),
        ({"pairs_csv": "user,item_a,item_b,pref\nu,town:0,town:1,b\n"}, "pairs.csv:2"),
        ({"items_jsonl": '{"item": 1}\n', "ratings_csv": ""}, "items.jsonl:1 is not of the form"),
        ({"items_jsonl": '{"item": 1, "text": "a"}\n' * 2, "ratings_csv": ""}, "names an item twice"),
    ],
)
def test_malformed_folders_are_explained(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(folder(tmp_path, **files))


def test_a_folder_without_items_is_explained(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user,item,rating\n")
    with pytest.raises(DataError, match=r"items.jsonl is missing"):
        load(tmp_path)
