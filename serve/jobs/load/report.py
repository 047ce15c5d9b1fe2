"""What a load showed: figures, a table, and a drawing. Knows observations and readings only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from serve.jobs.load.memory import Reading, growth
from serve.jobs.load.traffic import Observation

MAX_GROWTH_PERCENT = 5.0
FULL_HOUSES = 2.0  # the bound of the 99th percentile,
LEAST_BOUND_S = 5.0  # and never less than this: below it, stalls of a shared machine decide
LEAST_SHARE = 0.5  # of the sustained rate that must still be served under overload
MIB = 2**20
MINUTE_S = 60.0
NUM_SLICES = 60  # of the time, in the drawing


@dataclass(frozen=True, slots=True)
class Run:
    """One load held."""

    sustained: float  # requests a second that were answered while finding the rate
    rate: float  # that were meant to come
    seconds: float
    warm_up_s: float
    observations: Sequence[Observation]
    readings: Sequence[Reading] = ()
    full_house: int | None = None  # requests that may be inside at once; None if unknown
    is_complete: bool = True  # whether the load was held to the end; `seconds` is what was held so far


def summarise(run: Run) -> dict[str, Any]:
    """Put a run into figures: seconds for accepted requests by kind, statuses, memory in bytes, and what is amiss."""
    chats = [one for one in run.observations if one.kind != "thumb"]
    kinds = sorted({one.kind for one in run.observations})
    figures: dict[str, Any] = {
        "is_complete": run.is_complete,
        "sustained": run.sustained,
        "rate": run.rate,
        "seconds": run.seconds,
        "offered_per_s": len(chats) / run.seconds,
        "accepted_per_s": sum(one.is_accepted for one in chats) / run.seconds,
        "statuses": dict(sorted(Counter(one.status for one in run.observations).items())),
        "accepted": _times(chats),
        "by_kind": {kind: _times([one for one in run.observations if one.kind == kind]) for kind in kinds},
        "refused": _quantiles([one.seconds for one in chats if one.is_refused]),
        "max_p99_s": max_p99_s(run),
        "warm_up_s": run.warm_up_s,
        "by_minute": by_minute(run),
    }
    if run.readings and (run.is_complete or sum(one.at_s >= run.warm_up_s for one in run.readings) >= 2):
        names = sorted({name for reading in run.readings for name in reading.by_process})
        figures["memory"] = _grown(run, None)
        figures["memory_by_process"] = {name: _grown(run, name) for name in names}
    figures["amiss"] = amiss(figures)
    return figures


def by_minute(run: Run) -> list[dict[str, Any]]:
    """Count chat requests by the minute they were sent in, with the times of accepted ones and the memory then."""
    chats: defaultdict[int, list[Observation]] = defaultdict(list)
    sizes: defaultdict[int, list[int]] = defaultdict(list)
    for one in run.observations:
        if one.kind != "thumb":
            chats[int(one.at_s / MINUTE_S)].append(one)
    for reading in run.readings:
        sizes[int(reading.at_s / MINUTE_S)].append(reading.total)
    return [
        {
            "minute": minute,
            "accepted": sum(one.is_accepted for one in chats[minute]),
            "refused": sum(one.is_refused for one in chats[minute]),
            "failed": sum(not one.is_accepted and not one.is_refused for one in chats[minute]),
            **_quantiles([one.seconds for one in chats[minute] if one.is_accepted]),
            **({"memory_bytes": float(np.median(sizes[minute]))} if sizes[minute] else {}),
        }
        for minute in range(ceil(run.seconds / MINUTE_S))
    ]


def max_p99_s(run: Run) -> float | None:
    """Bound the 99th percentile of accepted chat requests: twice what a full house took at the rate they came out."""
    accepted = sum(one.is_accepted for one in run.observations if one.kind != "thumb")
    if run.full_house is None or not accepted:
        return None
    return max(LEAST_BOUND_S, FULL_HOUSES * run.full_house * run.seconds / accepted)


def amiss(figures: dict[str, Any]) -> list[str]:
    """Say what is beyond its bound: statuses other than 200 and 429, memory, the 99th percentile."""
    found = [
        f"{count} requests ended with '{status}'"
        for status, count in figures["statuses"].items()
        if not status.startswith(("200", "429"))
    ]
    if figures["accepted_per_s"] < LEAST_SHARE * figures["sustained"]:
        found.append(
            f"{figures['accepted_per_s']:.2f} requests a second were accepted under load, where "
            f"{figures['sustained']:.2f} are sustained without"
        )
    memory = figures.get("memory")
    if memory is not None and memory["growth_percent"] > MAX_GROWTH_PERCENT:
        found.append(
            f"memory grew by {memory['growth_percent']:.1f} % after warm-up, more than {MAX_GROWTH_PERCENT:g} %"
        )
    p99_s, bound_s = figures["accepted"].get("p99_s", 0.0), figures["max_p99_s"]
    if bound_s is not None and p99_s > bound_s:
        found.append(f"the 99th percentile of accepted requests is {p99_s:.1f} s, more than {bound_s:.1f} s")
    return found


def render(figures: dict[str, Any]) -> str:
    """Render the figures as tables, and the verdict."""
    rows = [("all chat", figures["accepted"]), *figures["by_kind"].items()]
    titles = ("accepted", "number", "p50 s", "p99 s", "first p50", "first p99")
    lines = [
        f"{figures['offered_per_s']:.2f} chat requests a second for {figures['seconds'] / MINUTE_S:.1f} minutes; "
        f"{figures['accepted_per_s']:.2f} a second accepted, {figures['sustained']:.2f} sustained without overload",
        "  ".join(f"{title:>16}" for title in titles),
    ]
    for name, times in rows:
        keys = ("p50_s", "p99_s", "first_p50_s", "first_p99_s")
        cells = [name, str(times["count"]), *(f"{times[key]:.3f}" if key in times else "" for key in keys)]
        lines.append("  ".join(f"{cell:>16}" for cell in cells))
    if figures["refused"]:
        lines.append(f"refused: p50 {figures['refused']['p50_s']:.3f} s, p99 {figures['refused']['p99_s']:.3f} s")
    lines.append("statuses: " + ", ".join(f"{status}: {count}" for status, count in figures["statuses"].items()))
    for name, grown in [("all", figures.get("memory")), *figures.get("memory_by_process", {}).items()]:
        if grown is not None:
            lines.append(
                f"memory of {name}: {grown['first_bytes'] / MIB:,.0f} → {grown['last_bytes'] / MIB:,.0f} MiB "
                f"({grown['growth_percent']:+.1f} %)"
            )
    return "\n".join([*lines, "amiss: " + ("; ".join(figures["amiss"]) or "nothing")])


def draw(run: Run, path: Path) -> None:
    """Draw memory, outcomes and times of accepted requests over the time."""
    figure = Figure(figsize=(9.0, 9.0), layout="constrained")
    FigureCanvasAgg(figure)
    above, middle, below = figure.subplots(3, 1, sharex=True)
    minutes = [reading.at_s / MINUTE_S for reading in run.readings]
    above.plot(minutes, [reading.total / MIB for reading in run.readings], label="all", linewidth=2.0)
    for name in sorted({name for reading in run.readings for name in reading.by_process}):
        above.plot(minutes, [one.by_process.get(name, 0) / MIB for one in run.readings], label=name, linewidth=1.0)
    above.axvline(run.warm_up_s / MINUTE_S, color="grey", linestyle=":")
    above.set_ylabel("resident, MiB")
    above.set_ylim(bottom=0)
    if run.readings:
        above.legend(fontsize="x-small", ncols=3)
    edges = np.linspace(0.0, run.seconds, NUM_SLICES + 1)
    centers = (edges[:-1] + edges[1:]) / 2 / MINUTE_S
    chats = [one for one in run.observations if one.kind != "thumb"]
    for label, chosen in (
        ("accepted", [one for one in chats if one.is_accepted]),
        ("refused (429)", [one for one in chats if one.is_refused]),
        ("failed", [one for one in chats if not one.is_accepted and not one.is_refused]),
    ):
        counts, _ = np.histogram([one.at_s for one in chosen], edges)
        middle.plot(centers, counts / (run.seconds / NUM_SLICES), label=label)
    middle.set_ylabel("chat requests a second")
    middle.legend(fontsize="x-small")
    for share, label in ((50, "p50"), (99, "p99")):
        below.plot(centers, _over_time([one for one in chats if one.is_accepted], edges, share), label=label)
    bound_s = max_p99_s(run)
    if bound_s is not None:
        below.axhline(bound_s, color="grey", linestyle=":", label="bound")
    below.set_ylabel("accepted, s")
    below.set_xlabel("minutes")
    below.legend(fontsize="x-small")
    figure.savefig(path, dpi=120)


def _over_time(observations: Sequence[Observation], edges: np.ndarray, share: int) -> list[float]:
    where = np.digitize([one.at_s for one in observations], edges) - 1
    seconds = np.array([one.seconds for one in observations])
    return [
        float(np.percentile(seconds[where == slot], share)) if (where == slot).any() else float("nan")
        for slot in range(len(edges) - 1)
    ]


def _times(observations: Sequence[Observation]) -> dict[str, Any]:
    accepted = [one for one in observations if one.is_accepted]
    first = _quantiles([one.first_s for one in accepted if one.first_s is not None])
    return {
        "count": len(accepted),
        **_quantiles([one.seconds for one in accepted]),
        **{f"first_{name}": value for name, value in first.items()},
    }


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {"p50_s": float(np.percentile(seconds, 50)), "p99_s": float(np.percentile(seconds, 99))}


def _grown(run: Run, name: str | None) -> dict[str, float]:
    grown = growth(run.readings, run.warm_up_s, name)
    percent = grown.percent if grown.first_bytes else 0.0
    return {"first_bytes": grown.first_bytes, "last_bytes": grown.last_bytes, "growth_percent": percent}
