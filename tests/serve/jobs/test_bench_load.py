"""The load command against a server of its own, with the scripted engine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve.jobs.bench_load import load

CONFIG = "engine: {kind: scripted, max_ongoing_requests: 4, max_queued_requests: 4}\n"
# The same command, which says every two seconds what it found so far.
QUICKLY = "import serve.jobs.bench_load as job; job.PROGRESS_S = 2.0; job.load()"
SLOWLY = "About {number}. [[tokens: 10]] [[delay: 0.02]]"


@pytest.mark.slow
def test_a_server_under_too_much_load_refuses_and_stays_well(tmp_path: Path) -> None:
    """The default engine's half hour is run by hand; this is a minute's worth of the same."""
    config, out, plot = tmp_path / "config.yaml", tmp_path / "load.json", tmp_path / "load.png"
    config.write_text(CONFIG)
    arguments = ["--config", config, "--minutes", "0.75", "--warm-up", "0.25", "--step", "4", "--people", "10"]
    arguments += ["--factor", "3", "--prompt", SLOWLY, "--json", out, "--plot", plot]
    result = CliRunner().invoke(load, [str(part) for part in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert set(figures["statuses"]) == {"200", "429 queue_full"}
    assert figures["statuses"]["429 queue_full"] > 20
    assert figures["accepted"]["p99_s"] < figures["max_p99_s"]
    assert {"Engine", "Ingress", "launcher", "raylet"} <= set(figures["memory_by_process"])
    assert figures["amiss"] == []
    assert figures["is_complete"]
    assert plot.stat().st_size > 10_000


@pytest.mark.slow
def test_a_killed_run_leaves_its_minutes(tmp_path: Path) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "load.json"
    config.write_text(CONFIG)
    arguments = [
        "--config",
        config,
        "--minutes",
        "30",
        "--rate",
        "4",
        "--people",
        "2",
        "--prompt",
        SLOWLY,
        "--json",
        out,
    ]
    command = [sys.executable, "-c", QUICKLY, *[str(part) for part in arguments]]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        deadline = time.monotonic() + 240.0
        while not out.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        process.terminate()  # so that it ends its server
        process.wait(60.0)
    figures = json.loads(out.read_text())
    assert not figures["is_complete"]
    assert figures["by_minute"][0]["accepted"] > 0


def test_useless_times_are_refused() -> None:
    result = CliRunner().invoke(load, ["--minutes", "1", "--warm-up", "1"])
    assert result.exit_code == 2
    assert "--warm-up" in result.output
