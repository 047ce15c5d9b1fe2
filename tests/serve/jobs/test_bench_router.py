"""The preference core's benchmark runs small and reports every operation and fit."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from serve.jobs.bench_router import SIZES, Fit, Timing, router


def test_it_prints_tables_and_writes_the_figures(tmp_path: Path) -> None:
    out = tmp_path / "router.json"
    arguments = ["--repeats", "10", "--people", "40,80", "--json", str(out)]
    result = CliRunner().invoke(router, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(out.read_text())
    rows, fits = report["results"], report["fits"]
    operations = {row["operation"] for row in rows}
    assert {"route", "plan", "score", "gate", "choose", "update", "update of 10"} <= operations
    assert len(rows) == len(SIZES) * len(operations)
    assert set(rows[0]) == set(Timing.__dataclass_fields__)
    assert all(0 < row["median_us"] <= row["p95_us"] and row["cpu_us"] > 0 for row in rows)
    assert len(result.stdout.splitlines()) == 1 + len(rows) + 2 + len(fits)

    assert set(fits[0]) == set(Fit.__dataclass_fields__)
    assert [fit["people"] for fit in fits] == [40, 80]
    assert [fit["growth"] is None for fit in fits] == [True, False]
    assert all(min(fit["seconds"], fit["cpu_seconds"]) > 0 for fit in fits)
    assert fits[1]["seconds_per_1000"] == pytest.approx(fits[1]["seconds"] / 0.08)
    assert fits[1]["growth"] == pytest.approx(np.log2(fits[1]["seconds"] / fits[0]["seconds"]))
    assert all(value > 0 for value in report["fit_options"].values())


@pytest.mark.parametrize("people", ["ten", "5", "40,30", "40,x"])
def test_useless_sizes_are_refused(people: str) -> None:
    result = CliRunner().invoke(router, ["--people", people])
    assert result.exit_code == 2
    assert "people" in result.output
