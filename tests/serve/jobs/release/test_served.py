"""Two reports of what simulated people were served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from serve.errors import ConfigurationError
from serve.jobs.release.comparison import Compared, Interval
from serve.jobs.release.deciding import Rules, decide_served
from serve.jobs.release.served import ServedComparison, compare_served
from serve.jobs.simulated.findings import Score, by_person, summarise

VERSIONS = ("new", "old")


def report(version: str, gains: list[float], seconds: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A report as the command writes it: each person's two answers lie about their mean gain."""
    scores = [
        Score("palate", best_of, k, f"p{number}", "sparse", gain + spread, 1.0)
        for number, gain in enumerate(gains)
        for best_of in (1, 4)
        for k in (3, 10)
        for spread in (-0.5, 0.5)
    ]
    plain: dict[str, Any] = {
        "model": "m",
        "plan": {"seed": 0},
        "artifacts": [version],
        "results": [finding.to_json() for finding in summarise(scores)],
        "people": by_person(scores, "palate"),
        "latency_s": [
            {"best_of": best_of, "k": k, "median": seconds, "p95": 2 * seconds} for best_of in (1, 4) for k in (3, 10)
        ],
    }
    return plain | changes


def compared(folder: Path, first: dict[str, Any], second: dict[str, Any]) -> ServedComparison:
    paths = folder / "new.json", folder / "old.json"
    for path, content in zip(paths, (first, second), strict=True):
        path.write_text(json.dumps(content))
    return compare_served(*paths, VERSIONS)


def test_people_are_compared_in_pairs(tmp_path: Path) -> None:
    old, new = [0.0, 1.0, 2.0], [0.3, 1.4, 2.2]
    found = compared(tmp_path, report("new", new, 1.5), report("old", old, 1.0))
    differences = np.array(new) - np.array(old)
    half = stats.t.ppf(0.975, 2) * differences.std(ddof=1) / np.sqrt(3)
    assert (found.num_people, found.k, found.best_of) == (3, 3, 4)
    assert found.gain.candidate.mean == pytest.approx(1.3)
    assert found.gain.difference.mean == pytest.approx(0.3)
    assert found.gain.difference.low == pytest.approx(0.3 - half)
    assert found.latency_s == (1.5, 1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"artifacts": ["old"]}, "was measured with old, not with new"),
        ({"artifacts": []}, "was measured with no artifact"),
        ({"plan": {"seed": 1}}, "not of the same people"),
        ({"model": "other"}, "not of the same people"),
        ({"people": []}, "holds nobody who gave feedback"),
    ],
)
def test_reports_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        compared(tmp_path, report("new", [0.0, 1.0], **change), report("old", [0.0, 1.0]))
    with pytest.raises(ConfigurationError, match="hold other people"):
        compared(tmp_path, report("new", [0.0, 1.0]), report("old", [0.0, 1.0, 2.0]))
    (tmp_path / "new.json").write_text("[]")
    with pytest.raises(ConfigurationError, match="is not a report"):
        compare_served(tmp_path / "new.json", tmp_path / "old.json", VERSIONS)


GOOD = ServedComparison(
    num_people=40,
    k=3,
    best_of=4,
    gain=Compared(Interval(0.9, 0.8, 1.0), Interval(0.9, 0.8, 1.0), Interval(0.0, -0.1, 0.1)),
    harmed=(0.1, 0.1),
    latency_s=(2.0, 2.0),
)


def differing(mean: float, half: float) -> Compared:
    return replace(GOOD.gain, difference=Interval(mean, mean - half, mean + half))


def test_as_good_as_before_passes() -> None:
    assert decide_served(GOOD, Rules()) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gain": differing(-0.05, 0.02)}, "served worse after 3 pieces"),  # little, but surely
        ({"gain": differing(-0.2, 0.3)}, "served worse after 3 pieces"),  # much, though not surely
        ({"harmed": (0.2, 0.1)}, "served worse than the base: 20% after 10%"),
        ({"latency_s": (2.6, 2.0)}, "answers take 2.60 s after 2.00 s"),
    ],
)
def test_each_rule_stops_what_it_is_for(change: dict[str, Any], said: str) -> None:
    (reason,) = decide_served(replace(GOOD, **change), Rules())
    assert said in reason
