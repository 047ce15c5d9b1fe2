import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from serve.jobs.few_shot import questions as module
from serve.jobs.few_shot.data import load
from serve.jobs.few_shot.protocol import Person
from serve.jobs.few_shot.questions import candidates, questions, summary

SLICE = Path(__file__).parents[3] / "data" / "few_shot"


def test_all_that_was_liked_can_be_compared_with_all_that_was_not() -> None:
    shots = np.array([[1, 4, 0], [2, 5, 0]])
    person = Person(shots, shots[:0], shots[:0])
    crossed = candidates(person, crossed=True)
    assert sorted(map(tuple, crossed.tolist())) == [(1, 4, 0), (1, 5, 0), (2, 4, 0), (2, 5, 0)]
    np.testing.assert_array_equal(candidates(person, crossed=False), shots)


def test_gains_are_over_ten_random_questions() -> None:
    right, wrong = np.full(4, 0.8), np.full(4, 0.2)
    curves = {
        "active": [[right, wrong]] * 11,
        "random": [[np.tile(wrong, 3), np.tile(wrong, 3)]] * 10 + [[np.tile(right, 3), np.tile(wrong, 3)]],
    }
    records = summary(curves)
    assert [record["questions"] for record in records] == list(range(11))
    assert records[0]["active"] == 0.5
    assert records[0]["random"] == 0.0
    assert records[10]["random"] == 0.5
    assert records[3]["active_less_ten_random"] == 0.0


def test_questions_are_asked_until_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POOL", 5)
    features = tmp_path / "features.npy"
    np.save(features, np.random.default_rng(0).normal(size=(len(load(SLICE).texts), 8)))
    output = tmp_path / "out.json"
    options = ["--data", str(SLICE), "--features", str(features), "--seeds", "1", "--json", str(output)]
    done = CliRunner().invoke(questions, options)
    assert done.exit_code == 0, done.output
    document = json.loads(output.read_text())
    for name in ("active_log_loss", "random_log_loss"):
        curve = [record[name] for record in document["curves"]]
        assert len(set(curve[:6])) == 6  # five liked, five disliked, and no text twice: five questions
        assert len(set(curve[5:])) == 1
    first, last = document["curves"][0], document["curves"][5]
    assert first["active_log_loss"] == pytest.approx(first["random_log_loss"])  # nothing asked yet
    assert last["active_log_loss"] != last["random_log_loss"]


def test_too_little_to_ask_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POOL", 500)
    features = tmp_path / "features.npy"
    np.save(features, np.zeros((len(load(SLICE).texts), 8)))
    done = CliRunner().invoke(questions, ["--data", str(SLICE), "--features", str(features)])
    assert done.exit_code == 1
    assert "500 comparisons and one more" in done.output
