"""Growth after warm-up, and the memory of real processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serve.jobs.load.memory import Reading, growth, process_name, read_memory

HOLD = "import sys; held = bytearray({size}); print(flush=True); sys.stdin.read()"


def test_growth_leaves_out_warm_up_and_single_readings() -> None:
    sizes = [100, 300, 500, *[1_000] * 40, 5_000, *[1_000] * 20, *[1_100] * 10]
    readings = [Reading(float(at_s), {"a": size, "b": 100}) for at_s, size in enumerate(sizes)]
    both = growth(readings, warm_up_s=3.0)
    assert (both.first_bytes, both.last_bytes) == (1_100, 1_200)
    assert both.percent == pytest.approx(100 / 11)
    assert growth(readings, 3.0, "a").percent == pytest.approx(10.0)
    assert growth(readings, 3.0, "b").percent == 0.0
    with pytest.raises(ValueError, match="warm-up"):
        growth(readings, warm_up_s=1e6)


def test_a_process_that_ended_counts_as_nothing() -> None:
    readings = [Reading(float(at_s), {"a": 100, **({"b": 50} if at_s < 5 else {})}) for at_s in range(10)]
    assert growth(readings, 0.0).percent == pytest.approx(-100 / 3)


def test_children_are_counted_with_their_parent() -> None:
    size = 64 * 2**20
    with subprocess.Popen(
        [sys.executable, "-c", HOLD.format(size=size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        alone = read_memory(child.pid, 0.0).total
        assert size < alone < size + 64 * 2**20
        shell = ["sh", "-c", f'"{sys.executable}" -c "{HOLD.format(size=size)}"; true']
        with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            parent.stdout.readline()
            assert read_memory(parent.pid, 0.0).total > size


def test_replicas_are_named_by_their_deployment() -> None:
    assert process_name("ray::ServeRepl", ["ray::ServeReplica:palate:Engine.generate"]) == "Engine"
    assert process_name("python", ["python", "-m", "serve", "serve", "--config", "x"]) == "launcher"
    controller = {process_name("x", [f"ray::ServeController{method}"]) for method in ("", ".listen_for_change")}
    assert controller == {"ray::ServeController"}
    assert process_name("raylet", ["/ray/raylet", "--port", "1"]) == "raylet"
