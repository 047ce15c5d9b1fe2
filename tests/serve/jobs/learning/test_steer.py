"""Judging what steering does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serve.jobs.learning.steer import Effect, Limits, Verdict, audit, render
from serve.jobs.learning.steer_plot import draw

PLAIN = Effect("", 0.0, 0.0, 0.1, -1.5, 0.02, 0.03)
GOOD = [Effect("warm", dose, 4 * dose, 0.1, -1.6, 0.03, 0.03) for dose in (-0.3, -0.1, 0.1, 0.3)]


def verdict(*effects: Effect) -> Verdict:
    return audit([PLAIN, *effects], Limits())["warm"]


def test_a_direction_that_works_may_steer() -> None:
    assert verdict(*GOOD) == Verdict((0.3, 0.3))


def test_what_does_nothing_may_not_steer() -> None:
    found = verdict(*(replace(effect, shift=0.1) for effect in GOOD))
    assert found == Verdict((0.0, 0.0), ("at +0.30 it moves by +0.10 only",))


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"logprob": -2.1}, "fluency"), ({"degenerate": 0.2}, "repeat"), ({"refusals": 0.2}, "refuse")],
)
def test_what_keeps_a_direction_in_bounds(change: dict[str, float], reason: str) -> None:
    def harmed(*numbers: int) -> Verdict:
        harm = [replace(effect, **change) if i in numbers else effect for i, effect in enumerate(GOOD)]  # type: ignore[arg-type]
        return verdict(*harm)

    assert harmed(0).doses == (0.1, 0.3)  # the two ways are apart
    assert harmed(3).doses == (0.3, 0.1)
    assert harmed(2, 3).doses == (0.3, 0.0)
    assert harmed(0, 1, 2, 3).doses == (0.0, 0.0)
    assert reason in harmed(3).reasons[0]
    assert "+0.30" in harmed(3).reasons[0]
    assert harmed(1, 2).doses == (0.3, 0.3)  # a small dose that fails where the larger one does not is noise


def test_table_and_plot(tmp_path: Path) -> None:
    effects = [PLAIN, *GOOD]
    text = render(effects, audit(effects, Limits()))
    assert "warm: may steer by -0.30 to +0.30" in text
    none = audit([PLAIN, *(replace(effect, shift=0.1) for effect in GOOD)], Limits())
    assert "warm: may not steer; at +0.30 it moves by +0.10 only" in render(effects, none)
    assert "+1.20" in text
    draw(effects, "test", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
