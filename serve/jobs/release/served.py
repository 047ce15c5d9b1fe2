"""What simulated people were served with a candidate and with what serves: two reports of `palate evaluate simulated`.

The same people, prompts and seeds, so that gains are compared in pairs, person by person. Knows no servers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from router.types import Array
from serve.errors import ConfigurationError
from serve.jobs.release.comparison import Compared, Interval

USUAL_K = 3  # pieces of feedback after which people are compared, where both reports have it
FEWEST = 2


@dataclass(frozen=True, slots=True)
class ServedComparison:
    """What was found; differences are candidate minus in service."""

    num_people: int
    k: int  # pieces of feedback before
    best_of: int
    gain: Compared  # over plain answers, in standard deviations of the person's utility
    harmed: tuple[float, float]  # share of people served worse than the base beyond their own interval
    latency_s: tuple[float, float]  # median time of a whole answer


def compare_served(candidate: Path, in_service: Path, versions: tuple[str, str]) -> ServedComparison:
    """Compare two reports, of the candidate and of what serves, by name.

    Raises:
        ConfigurationError: a report cannot be read, is of another version, or the two are not of the same experiment.
    """
    reports = [_read(path, version) for path, version in zip((candidate, in_service), versions, strict=True)]
    if reports[0]["plan"] != reports[1]["plan"] or reports[0]["model"] != reports[1]["model"]:
        raise ConfigurationError(f"{candidate} and {in_service} are not of the same people, prompts and options.")
    ks = sorted({row["k"] for row in reports[0]["people"] if row["k"]})
    if not ks:
        raise ConfigurationError(f"{candidate} holds nobody who gave feedback; use --steps 3 or more.")
    k = USUAL_K if USUAL_K in ks else ks[-1]
    best_of = max(row["best_of"] for row in reports[0]["people"])
    gains = [
        {row["person"]: row["gain"] for row in report["people"] if (row["k"], row["best_of"]) == (k, best_of)}
        for report in reports
    ]
    people = sorted(gains[0])
    if people != sorted(gains[1]) or len(people) < FEWEST:
        raise ConfigurationError(f"{candidate} and {in_service} hold other people, or fewer than {FEWEST}.")
    first, second = (np.array([one[person] for person in people]) for one in gains)
    results = [_row(report["results"], k, best_of, arm="palate") for report in reports]
    latencies = [_row(report["latency_s"], k, best_of) for report in reports]
    return ServedComparison(
        num_people=len(people),
        k=k,
        best_of=best_of,
        gain=paired(first, second),
        harmed=(results[0]["harmed"], results[1]["harmed"]),
        latency_s=(latencies[0]["median"], latencies[1]["median"]),
    )


def _read(path: Path, version: str) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        served = report["artifacts"]
        _ = [report[name] for name in ("plan", "model", "people", "results", "latency_s")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is not a report of `palate evaluate simulated`: {error}") from error
    if served != [version]:
        raise ConfigurationError(f"{path} was measured with {', '.join(served) or 'no artifact'}, not with {version}.")
    return report


def _row(rows: list[dict[str, Any]], k: int, best_of: int, **also: str) -> dict[str, Any]:
    wanted = {"k": k, "best_of": best_of, **also}
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def paired(first: Array, second: Array) -> Compared:
    """Compare the same people's values (n,) in pairs."""
    return Compared(interval_of_mean(first), interval_of_mean(second), interval_of_mean(first - second))


def interval_of_mean(values: Array) -> Interval:
    """Student's 95 % interval of a mean over people."""
    mean = float(values.mean())
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)
