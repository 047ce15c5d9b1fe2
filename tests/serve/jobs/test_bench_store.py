"""The store's benchmark runs small and reports every measure."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve.jobs.bench_store import Row, store

MEASURES = set(Row.__dataclass_fields__)


@pytest.mark.parametrize("backend", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def test_a_small_run_fills_every_measure(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    arguments = ["--people", "40,80", "--backend", backend, "--json", str(tmp_path / "out.json")]
    if backend == "redis":
        arguments += ["--redis-url", request.getfixturevalue("empty_redis")]
    result = CliRunner().invoke(store, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out.json").read_text())
    rows = [row for row in report["rows"] if row["people"] == 40]
    assert set(rows[0]) == MEASURES
    assert [name for name, value in rows[0].items() if value in {0, ""}] == []
    assert rows[0]["recall_at_10"] == 1.0
    assert json.loads(result.stdout.splitlines()[-1]) == report


def test_the_index_can_be_measured_alone() -> None:
    result = CliRunner().invoke(store, ["--people", "50", "--backend", "none"])
    (row,) = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert (row["recall_at_10"], row["fill_s"]) == (1.0, 0.0)
    assert row["search_p99_ms"] > 0


@pytest.mark.parametrize("people", ["ten", "5", "1,x"])
def test_useless_sizes_are_refused(people: str) -> None:
    result = CliRunner().invoke(store, ["--people", people])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
