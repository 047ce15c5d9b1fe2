"""Accuracy and log-loss against the number of shots, drawn into a PNG. Knows results only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw(results: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Write one column of panels for each kind and items: accuracy above, log-loss below."""
    panels = list(dict.fromkeys((record["kind"], record["items"]) for record in results))
    figure = Figure(figsize=(3.6 * len(panels), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(panels), squeeze=False, sharex=True)
    for column, (kind, items) in enumerate(panels):
        shown = [record for record in results if (record["kind"], record["items"]) == (kind, items)]
        for model in dict.fromkeys(record["model"] for record in shown):
            line = sorted((record for record in shown if record["model"] == model), key=lambda record: record["shots"])
            shots = [record["shots"] for record in line]
            style: dict[str, Any] = {"label": model, "marker": "o", "linewidth": 2.4 if model == "palate" else 1.2}
            axes[0, column].plot(shots, [100 * record["accuracy"] for record in line], **style)
            axes[1, column].plot(shots, [record["log_loss"] for record in line], **style)
            if model == "palate":
                low, high = zip(*[record["accuracy_ci"] for record in line], strict=True)
                axes[0, column].fill_between(shots, [100 * x for x in low], [100 * x for x in high], alpha=0.15)
        axes[0, column].set_title(f"{kind}, {items} items")
        axes[1, column].set_xlabel("labels from the person")
    axes[0, 0].set_ylabel("accuracy, %")
    axes[1, 0].set_ylabel("log-loss, nats")
    axes[0, -1].legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
