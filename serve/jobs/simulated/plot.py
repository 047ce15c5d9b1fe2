"""Gain and people harmed against pieces of feedback, drawn into a PNG. Knows findings only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from serve.jobs.simulated.findings import Finding

FLAT = {"uniform", "oracle"}  # the same whatever the feedback


def draw(findings: Sequence[Finding], title: str, path: Path) -> None:
    """Write two panels: gain in standard deviations, and the share of people harmed."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True)
    steps = sorted({one.k for one in findings})
    for arm, best_of in dict.fromkeys((one.arm, one.best_of) for one in findings):
        line = sorted((one for one in findings if (one.arm, one.best_of) == (arm, best_of)), key=lambda one: one.k)
        label = f"{arm}, N={best_of}"
        if arm in FLAT:
            left.axhline(line[0].gain_sigma, linestyle=":", linewidth=1.0, color="grey")
            left.annotate(label, (steps[-1], line[0].gain_sigma), ha="right", va="bottom", fontsize="small")
            continue
        if arm == "base":
            continue
        style: dict[str, Any] = {"label": label, "marker": "o", "linewidth": 2.2 if arm == "palate" else 1.2}
        ks = [one.k for one in line]
        (drawn,) = left.plot(ks, [one.gain_sigma for one in line], **style)
        low, high = zip(*[one.gain_ci for one in line], strict=True)
        left.fill_between(ks, low, high, alpha=0.12, color=drawn.get_color())
        right.plot(ks, [100 * one.harmed for one in line], **style | {"color": drawn.get_color()})
    left.axhline(0.0, color="black", linewidth=0.6)
    left.set_ylabel("served utility above the base, σ")
    right.set_ylabel("people harmed, %")
    for axes in (left, right):
        axes.set_xlabel("pieces of feedback")
    left.legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
