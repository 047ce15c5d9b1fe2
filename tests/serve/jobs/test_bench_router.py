import json
from pathlib import Path

from click.testing import CliRunner

from serve.jobs.bench_router import SIZES, router


def test_it_prints_a_table_and_writes_the_figures(tmp_path: Path) -> None:
    out = tmp_path / "router.json"
    result = CliRunner().invoke(router, ["--repeats", "10", "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    rows = json.loads(out.read_text())["results"]
    operations = {row["operation"] for row in rows}
    assert {"route", "plan", "score", "gate", "choose"} <= operations
    assert len(rows) == len(SIZES) * len(operations)
    assert all(0 < row["median_us"] <= row["p95_us"] for row in rows)
    assert len(result.output.splitlines()) == 1 + len(rows)
