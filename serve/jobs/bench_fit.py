"""`palate bench fit`: time, memory and growth of a population's fit from 1,000 to 100,000 people.

Fits simulated people on top of the shipped artifact, as `palate fit` does once their feedback is read: every text is
judged once, the worst case for memory. Each size runs in a process of its own, so that its peak is its own. Two Ray
workers are timed against one, on the same E-steps. Processor time stands beside the wall clock, for machines that
others use. Knows nothing of stores.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from router.em import MapPeople, Run, e_step
from router.feedback import FeedbackTable
from router.tabulation import Tabulation
from router.types import Array, Comparison
from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import load_default
from serve.jobs.fit.fitting import RefitConfig, refit
from serve.jobs.fit.influence import prior_of
from serve.jobs.fit.workers import counted, ray_workers
from serve.models import DEFAULT_MODEL

NUM_TASTES = 6  # directions in which simulated people differ, two of them beyond the artifact's
ROUNDS = 3  # timed E-steps of everybody
MIB = 2.0**20


@dataclass(frozen=True)
class Shape:
    """What is held fixed while the number of people grows."""

    events: int  # comparisons of each person
    P: int  # raw features
    D: int  # the artifact's reward features; the fit adds up to four, and the shared reward


@dataclass(frozen=True)
class Cost:
    """What the fit of one number of people took."""

    people: int
    events: int
    texts: int
    e_steps: int  # of one person
    table_cpu_s: float
    fit_cpu_s: float
    fit_s: float  # by the wall clock
    table_mib: float  # features, held once
    start_mib: float  # resident before anything was made
    peak_mib: float
    accuracy: float  # of held-out people's judgements
    parent_accuracy: float

    @property
    def cpu_s(self) -> float:
        """Processor time in all."""
        return self.table_cpu_s + self.fit_cpu_s

    @property
    def more_mib(self) -> float:
        """What people cost beyond the program itself."""
        return self.peak_mib - self.start_mib


@dataclass(frozen=True)
class Workers:
    """E-steps of the same people on Ray workers, by the wall clock."""

    people: int
    num_workers: int
    seconds: float  # median of the rounds


def _sizes(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part.replace("_", "")) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter("give numbers, comma separated, such as 1000,10000") from error
    if min(sizes) < 60 or list(sizes) != sorted(set(sizes)):
        raise click.BadParameter("numbers of people must ascend, from 60 up")
    return sizes


@click.command("fit")
@click.option("--people", default="1000,10000", show_default=True, callback=_sizes, help="Sizes; 100000 takes an hour.")
@click.option("--events", default=20, show_default=True, type=click.IntRange(4, 1000), help="Comparisons a person.")
@click.option("--workers-on", default=2000, show_default=True, type=click.IntRange(0), help="People; 0 leaves Ray out.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too."
)
def fit(people: tuple[int, ...], events: int, workers_on: int, json_path: Path | None) -> None:
    """Time, memory and growth of `palate fit` by people, and what a second Ray worker gains."""
    population = _parent().population
    shape = Shape(events, len(population.center), population.num_features)
    costs: list[Cost] = []
    for size in people:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            costs.append(process.submit(measure, size, events).result())
        click.echo(render(shape, costs[-1:]), err=True)
        if json_path is not None:
            json_path.write_text(json.dumps(_report(shape, costs, []), indent=1))
    workers = measure_workers(workers_on, events) if workers_on else []
    click.echo(render(shape, costs))
    click.echo(render_workers(workers))
    if json_path is not None:
        json_path.write_text(json.dumps(_report(shape, costs, workers), indent=1))


def measure(num_people: int, num_events: int) -> Cost:
    """Fit so many simulated people, in this process."""
    parent, start_mib = _parent(), resident("VmRSS")
    start = time.process_time()
    table = make_table(parent, num_people, num_events, np.random.default_rng(0))
    places = np.where(np.arange(num_people) % 5 == 0, 0.0, 0.5)  # every fifth is held out
    table_cpu_s = time.process_time() - start
    begin, start = time.perf_counter(), time.process_time()
    with tqdm(unit=" people", desc=f"E-steps of {num_people}", file=sys.stderr, mininterval=5.0) as bar:
        found = refit(parent, table, places, RefitConfig(), Run(counted(map, bar.update)))
        e_steps = bar.n
    return Cost(
        people=num_people,
        events=len(table.people),
        texts=len(table.features),
        e_steps=int(e_steps),
        table_cpu_s=table_cpu_s,
        fit_cpu_s=time.process_time() - start,
        fit_s=time.perf_counter() - begin,
        table_mib=table.features.nbytes / MIB,
        start_mib=start_mib,
        peak_mib=resident("VmHWM"),
        accuracy=found.candidate.accuracy,
        parent_accuracy=found.parent.accuracy,
    )


def make_table(parent: Artifact, num_people: int, num_events: int, rng: np.random.Generator) -> FeedbackTable:
    """Simulate people who compare texts of their own; they differ in named directions and in two that have no name."""
    population = parent.population
    P = len(population.center)
    known = population.basis[: NUM_TASTES - 2] / population.scale  # (4, P)
    unknown = rng.normal(size=(2, P)) / np.sqrt(P)
    directions = np.vstack([known / np.linalg.norm(known, axis=1)[:, None], unknown])  # over raw features
    tabulation = Tabulation(dtype=np.float32)
    for _ in range(num_people):
        taste = 1.5 * rng.normal(size=NUM_TASTES) @ directions
        tabulation.add(_comparisons(taste, rng.normal(size=(num_events, 2, P)), rng))
    return tabulation.table()


def measure_workers(num_people: int, num_events: int) -> list[Workers]:
    """Time the same E-steps in this process, on one Ray worker and on two."""
    parent = _parent()
    table = make_table(parent, num_people, num_events, np.random.default_rng(0))
    people, start = table.evidence(parent.population), prior_of(parent.population)
    found = []
    for num_workers in (0, 1, 2):
        with _mapping(num_workers) as map_people:
            seconds = []
            for _ in range(ROUNDS + 1):  # the first one starts the workers
                begin = time.perf_counter()
                e_step(people, start, start.means, map_people)
                seconds.append(time.perf_counter() - begin)
        found.append(Workers(num_people, num_workers, float(np.median(seconds[1:]))))
    return found


def resident(name: str) -> float:
    """Return this process's resident memory now (`VmRSS`) or at most so far (`VmHWM`), in MiB. Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024.0


def growths(costs: Sequence[Cost]) -> list[dict[str, float]]:
    """Return the exponents of time and memory from each size to the next: 1 is linear."""
    return [
        {
            "from": before.people,
            "to": after.people,
            "cpu": _exponent(before, after, before.cpu_s, after.cpu_s),
            "memory": _exponent(before, after, before.more_mib, after.more_mib),
        }
        for before, after in pairwise(costs)
    ]


def render(shape: Shape, costs: Sequence[Cost]) -> str:
    """Render a table: one row a number of people, with the growth from the row before (1 is linear)."""
    lines = [f"fit: {shape.events} comparisons a person, P {shape.P}, D {shape.D} and what is learned, float32"]
    lines.append(
        f"{'people':>8}{'events':>10}{'E-steps':>10}{'table cpu s':>13}{'fit cpu s':>11}{'fit s':>9}{'growth':>8}"
        f"{'table MiB':>11}{'peak MiB':>10}{'growth':>8}{'accuracy':>10}{'before':>8}"
    )
    steps = [None, *growths(costs)]
    for cost, step in zip(costs, steps, strict=True):
        cpu, memory = (f"{step[name]:.2f}" if step else "" for name in ("cpu", "memory"))
        lines.append(
            f"{cost.people:>8}{cost.events:>10}{cost.e_steps:>10}{cost.table_cpu_s:>13.1f}{cost.fit_cpu_s:>11.1f}"
            f"{cost.fit_s:>9.1f}{cpu:>8}{cost.table_mib:>11.0f}{cost.peak_mib:>10.0f}{memory:>8}"
            f"{cost.accuracy:>10.3f}{cost.parent_accuracy:>8.3f}"
        )
    return "\n".join(lines)


def render_workers(workers: Sequence[Workers]) -> str:
    """Render what each number of Ray workers took, beside the process itself."""
    lines = []
    for one in workers:
        gain = f", {workers[1].seconds / one.seconds:.2f} times one worker" if one.num_workers > 1 else ""
        name = f"{one.num_workers} Ray worker(s)" if one.num_workers else "in this process"
        lines.append(f"E-steps of {one.people}, {name}: {one.seconds:.2f} s{gain}")
    return "\n".join(lines)


def _report(shape: Shape, costs: Sequence[Cost], workers: Sequence[Workers]) -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "shape": asdict(shape),
        "fits": [asdict(cost) for cost in costs],
        "growth": growths(costs),
        "workers": [asdict(one) for one in workers],
    }


def _comparisons(taste: Array, pairs: Array, rng: np.random.Generator) -> list[Comparison]:
    gaps = (pairs[:, 0] - pairs[:, 1]) @ taste  # (events,)
    firsts = rng.random(len(pairs)) < 1.0 / (1.0 + np.exp(-gaps))
    return [
        Comparison(event_id="e", chosen=pair[0 if first else 1], rejected=pair[1 if first else 0])
        for pair, first in zip(pairs, firsts, strict=True)
    ]


@contextmanager
def _mapping(num_workers: int) -> Iterator[MapPeople]:
    if not num_workers:
        yield map
        return
    with ray_workers(None, num_workers) as map_people:
        yield map_people


def _exponent(before: Cost, after: Cost, first: float, second: float) -> float:
    return math.log(max(second, 1e-9) / max(first, 1e-9)) / math.log(after.people / before.people)


def _parent() -> Artifact:
    artifact = load_default(DEFAULT_MODEL.name)
    if artifact is None:
        raise click.ClickException("the default artifact is missing from this installation")
    return artifact


if __name__ == "__main__":
    fit()
