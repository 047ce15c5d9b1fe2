"""The fit's benchmark runs small, reports every measure, and refuses useless sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from serve.jobs.bench_fit import Cost, Workers, fit, growths, render_workers


def test_a_small_run_fills_every_measure(tmp_path: Path) -> None:
    out = tmp_path / "fit.json"
    arguments = ["--people", "60,90", "--events", "4", "--workers-on", "0", "--json", str(out)]
    result = CliRunner().invoke(fit, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(out.read_text())
    first, second = (Cost(**row) for row in report["fits"])
    assert (first.people, first.events, first.texts) == (60, 240, 480)  # every text is judged once
    P, D = report["shape"]["P"], report["shape"]["D"]  # the shipped artifact's
    assert first.table_mib == pytest.approx(480 * P * 4 / 2**20)
    assert first.e_steps > 60 * 20
    for cost in (first, second):
        assert cost.peak_mib > cost.start_mib > 0.0
        assert min(cost.table_cpu_s, cost.fit_cpu_s, cost.fit_s) > 0.0
        assert 0.0 < cost.accuracy <= 1.0  # of a dozen people: a number, not a verdict
    (growth,) = report["growth"]
    assert growth["cpu"] == pytest.approx(np.log(second.cpu_s / first.cpu_s) / np.log(1.5))
    assert growths([first, replace(first, people=120)])[0]["memory"] == 0.0
    assert f"P {P}, D {D}" in result.stdout


def test_workers_are_compared_with_one() -> None:
    lines = render_workers([Workers(10, 0, 3.0), Workers(10, 1, 4.0), Workers(10, 2, 2.0)]).splitlines()
    assert lines[0] == "E-steps of 10, in this process: 3.00 s"
    assert lines[2].endswith("2.00 s, 2.00 times one worker")


@pytest.mark.parametrize("people", ["ten", "50", "90,60"])
def test_useless_sizes_are_refused(people: str) -> None:
    result = CliRunner().invoke(fit, ["--people", people])
    assert result.exit_code == 2
    assert "people" in result.output
