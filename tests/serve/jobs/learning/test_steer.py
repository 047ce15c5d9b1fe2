"""Judging what steering does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from serve.jobs.learning.steer import Effect, Limits, audit, render
from serve.jobs.learning.steer_plot import draw

PLAIN = Effect("", 0.0, 0.0, 0.1, -1.5, 0.02, 0.03)
GOOD = [Effect("warm", dose, 4 * dose, 0.1, -1.6, 0.03, 0.03) for dose in (-0.3, -0.1, 0.1, 0.3)]


def verdict(*effects: Effect) -> str:
    return audit([PLAIN, *effects], Limits())["warm"]


def test_a_direction_that_works_may_steer() -> None:
    assert verdict(*GOOD) == ""


def test_what_keeps_a_direction_out() -> None:
    weak = [replace(effect, shift=0.1) for effect in GOOD]
    assert "moves it by +0.10 only" in verdict(*weak)
    for change, reason in (
        ({"logprob": -2.1}, "fluency"),
        ({"degenerate": 0.2}, "repeat"),
        ({"refusals": 0.2}, "refuse"),
    ):
        for end in (0, 3):  # away from it counts as well as towards it
            effects = list(GOOD)
            effects[end] = replace(effects[end], **change)  # type: ignore[arg-type]
            assert reason in verdict(*effects)
        small = [GOOD[0], replace(GOOD[1], **change), *GOOD[2:]]  # type: ignore[arg-type]
        assert verdict(*small) == ""


def test_table_and_plot(tmp_path: Path) -> None:
    effects = [PLAIN, *GOOD]
    text = render(effects, audit(effects, Limits()))
    assert "warm: may steer" in text
    assert "+1.20" in text
    draw(effects, "test", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
