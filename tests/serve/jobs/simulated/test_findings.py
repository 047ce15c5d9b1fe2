"""From scores to figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from serve.jobs.simulated.findings import Score, by_person, find, render, summarise
from serve.jobs.simulated.plot import draw


def scores(arm: str, gains: dict[str, list[float]], best_of: int = 8, k: int = 10) -> list[Score]:
    return [Score(arm, best_of, k, person, "sparse", gain, 2.0) for person, of in gains.items() for gain in of]


def test_people_are_the_unit_of_the_interval() -> None:
    gains = {"a": [1.0, 3.0], "b": [0.0, 0.0], "c": [4.0, 4.0]}
    found = find(scores("palate", gains), oracle=4.0)
    means = [2.0, 0.0, 4.0]
    half = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / np.sqrt(3)
    assert found.gain_sigma == pytest.approx(2.0)
    assert found.gain_ci == pytest.approx((2.0 - half, 2.0 + half))
    assert found.oracle_share == pytest.approx(0.5)
    assert found.win_rate == pytest.approx(4 / 6)
    assert (found.tokens_ratio, found.num_people) == (2.0, 3)


def test_answers_that_run_in_circles_are_counted() -> None:
    rows = scores("palate", {"a": [1.0, 3.0], "b": [0.0, 1.0]})
    found = find([replace(rows[0], repeats=True), *rows[1:]])
    assert found.repeats == 0.25
    assert "25%" in render([found])


def test_harmed_is_below_the_base_beyond_their_own_interval() -> None:
    surely, perhaps, fine = [-1.0, -1.1, -0.9], [-1.0, 1.0, -0.5], [1.0, 1.1, 0.9]
    assert find(scores("palate", {"a": surely, "b": perhaps, "c": fine})).harmed == pytest.approx(1 / 3)
    assert find(scores("palate", {"a": [-5.0]})).harmed == 0.0  # one answer has no interval


def test_people_can_be_paired_with_those_of_another_run() -> None:
    rows = [*scores("palate", {"a": [1.0, 3.0], "b": [0.0, 1.0]}, k=3), *scores("base", {"a": [9.0]}, k=0)]
    assert by_person(rows, "palate") == [
        {"best_of": 8, "k": 3, "person": "a", "gain": 2.0},
        {"best_of": 8, "k": 3, "person": "b", "gain": 0.5},
    ]


def test_a_table_and_a_plot_of_everything(tmp_path: Path) -> None:
    rows = [
        *scores("oracle", {"a": [1.0, 1.2], "b": [0.8, 1.0]}, k=0),
        *scores("palate", {"a": [0.5, 0.4], "b": [0.3, 0.6]}, k=3),
        *scores("palate", {"a": [0.7, 0.9], "b": [0.6, 0.8]}, k=10),
    ]
    findings = summarise(rows)
    assert [(one.arm, one.k) for one in findings] == [("oracle", 0), ("palate", 3), ("palate", 10)]
    assert findings[2].oracle_share == pytest.approx(0.75)
    assert "+0.75" in render(findings)
    draw(findings, "test", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_no_scores_are_an_error() -> None:
    with pytest.raises(ValueError, match="no scores"):
        find([])
