"""The extension as it is served: the front end, the engine's core and its worker in three processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[3]


def test_steer_read_abort_and_free(default_model: str) -> None:
    program = [sys.executable, "-m", "tests.serve.engines.served_engine", default_model]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))  # vLLM logs there too
    assert found["version"] == "v1"
    assert set(found["counts"]) == set(found["norms"]) == {"long", "steered"}
    assert found["counts"]["steered"] == 69
    assert 0 < found["counts"]["long"] < 399
    assert all(50 < norm < 500 for norm in found["norms"].values())
    assert found["shared_tokens"] == found["prompt_blocks_tokens"] > 0
    idle = {"num_live": 0, "num_rows_used": 0, "num_rejected": 0}
    assert found["after_abort"] == {**idle, "num_finished": 2}
    assert found["after_free"] == {**idle, "num_finished": 0}
