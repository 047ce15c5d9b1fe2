import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from serve.jobs.few_shot.command import few_shot
from serve.jobs.few_shot.data import load
from serve.jobs.few_shot.evaluation import MODELS

SLICE = Path(__file__).parents[3] / "data" / "few_shot"


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Character trigrams of the texts, hashed: enough of a text feature for a test."""
    path = tmp_path_factory.mktemp("features") / "trigrams.npy"
    texts = load(SLICE).texts
    matrix = np.zeros((len(texts), 128))
    for row, text in enumerate(texts):
        for i in range(len(text) - 2):
            matrix[row, sum(ord(letter) * 31**j for j, letter in enumerate(text[i : i + 3])) % 128] += 1
    np.save(path, matrix / np.linalg.norm(matrix, axis=1, keepdims=True))
    return path


def test_real_votes_are_evaluated_end_to_end(features: Path, tmp_path: Path) -> None:
    output, plot = tmp_path / "out.json", tmp_path / "out.png"
    options = ["--data", str(SLICE), "--features", str(features), "--shots", "0,3,6", "--seeds", "1"]
    done = CliRunner().invoke(few_shot, [*options, "--json", str(output), "--out-plot", str(plot)])
    assert done.exit_code == 0, done.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    document = json.loads(output.read_text())
    assert document["dataset"] == "few_shot"
    cells = {(r["model"], r["kind"], r["items"], r["shots"]): r for r in document["results"]}
    assert {key[0] for key in cells} == set(MODELS)
    assert len(cells) == len(MODELS) * 2 * 2 * 3
    for kind in ("thumbs", "pairs"):
        for items in ("warm", "cold"):
            start, pooled = cells["palate", kind, items, 0], cells["pooled", kind, items, 0]
            assert (start["accuracy"], start["log_loss"]) == (pooled["accuracy"], pooled["log_loss"])
    known, everyone = cells["palate", "thumbs", "warm", 6], cells["pooled", "thumbs", "warm", 6]
    assert known["log_loss"] < everyone["log_loss"]
    assert known["accuracy_ci"][0] <= known["accuracy"] <= known["accuracy_ci"][1]
    swap = {(r["kind"], r["items"], r["shots"]): r for r in document["user_swap"]}
    assert swap["thumbs", "warm", 6]["log_loss"] > known["log_loss"]
    assert "palate - pooled" in done.output


@pytest.mark.parametrize(
    ("shots", "message"),
    [("a,b", "whole numbers"), ("-1", "start at 0"), ("0,500", "more than 500 labels")],
)
def test_impossible_shots_are_explained(features: Path, shots: str, message: str) -> None:
    done = CliRunner().invoke(few_shot, ["--data", str(SLICE), "--features", str(features), "--shots", shots])
    assert done.exit_code != 0
    assert message in done.output


def test_unreadable_data_is_explained(features: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(few_shot, ["--data", str(tmp_path), "--features", str(features)])
    assert done.exit_code == 1
    assert "items.jsonl is missing" in done.output
