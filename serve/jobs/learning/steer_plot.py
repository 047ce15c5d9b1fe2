"""Shift and log-probability against dose, one line an attribute, drawn into a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Point(Protocol):
    """What is drawn of an effect."""

    @property
    def attribute(self) -> str:
        """Empty for plain answers."""

    @property
    def dose(self) -> float:
        """Signed."""

    @property
    def shift(self) -> float:
        """In standard deviations."""

    @property
    def logprob(self) -> float:
        """Per token."""


def draw(effects: Sequence[Point], title: str, path: Path) -> None:
    """Write two panels: what a dose does to its attribute, and to the log-probability of the text."""
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True)
    plain = [effect for effect in effects if not effect.attribute]
    for name in dict.fromkeys(effect.attribute for effect in effects if effect.attribute):
        line = sorted(
            [*plain, *(effect for effect in effects if effect.attribute == name)], key=lambda effect: effect.dose
        )
        left.plot([one.dose for one in line], [one.shift for one in line], marker="o", label=name)
        right.plot([one.dose for one in line], [one.logprob for one in line], marker="o")
    left.set_ylabel("shift of the attribute, σ of plain answers")
    right.set_ylabel("log-probability a token, unsteered model")
    for axes in (left, right):
        axes.set_xlabel("dose, share of the residual norm")
        axes.axvline(0.0, color="grey", linewidth=0.6)
    left.legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
