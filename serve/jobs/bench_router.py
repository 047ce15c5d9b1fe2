"""`palate bench router`: what the preference core costs per request, and how cost grows with D, K, N and people.

Times routing, planning, scoring (numpy and torch), the gate, the choice and updates on made-up people, one size varied
at a time, and the fit of a population for several numbers of people; on one thread, in this process. Processor time
stands beside the wall clock, for machines that others use. Knows nothing of engines or servers.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
from tqdm import tqdm

from router.basis import BasisConfig
from router.candidates import PlanConfig, plan_candidates
from router.elicitation import information_gain
from router.em import Run
from router.feedback import FeedbackTable, binary_table
from router.mixture import Mixture
from router.population import FitConfig, fit_population, plain_layout
from router.posterior import prior, update, update_many
from router.reward import score
from router.routing import RoutingConfig, Wishes, judge_of, plain_space, route
from router.selection import choose
from router.types import Comparison, Population, Posterior
from serve.jobs.fit.workers import counted

WARM_UP = 20
NUM_QUESTIONS, NUM_ANSWERS = 64, 4  # to choose the next question from
NUM_EVENTS = 10  # that a person has given before
NUM_ARRIVING = 64  # events to update with, in turn
NUM_ITEMS, NUM_RAW, NUM_DIRECTIONS = 2000, 32, 8  # of the simulated world that populations are fitted to
COMPARISONS = 10  # of each person
FIT = FitConfig(
    basis=BasisConfig(rank=NUM_DIRECTIONS, max_iterations=30),
    num_prototypes=(4,),
    em_iterations=4,
    flip_rates=(0.05,),
    temperings=(1.0,),
)


@dataclass(frozen=True)
class Size:
    """What cost may depend on."""

    D: int = 32
    K: int = 8
    N: int = 8


@dataclass(frozen=True)
class Timing:
    """One operation at one size."""

    operation: str
    D: int
    K: int
    N: int
    median_us: float
    p95_us: float
    cpu_us: float  # median processor time


@dataclass(frozen=True)
class Fit:
    """The fit of a population of one size."""

    people: int
    seconds: float
    seconds_per_1000: float
    growth: float | None  # exponent from the size before: 1 is linear; None for the first
    cpu_seconds: float
    cpu_growth: float | None


DEFAULT = Size()
SIZES = (
    DEFAULT,
    *(Size(D=D) for D in (8, 16, 64)),
    *(Size(K=K) for K in (1, 4, 16)),
    *(Size(N=N) for N in (1, 16, 32)),
)


def _sizes(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in value.split(",") if part)
    except ValueError as error:
        raise click.BadParameter("give numbers, comma separated, such as 1000,4000") from error
    if any(size < 20 for size in sizes) or list(sizes) != sorted(set(sizes)):
        raise click.BadParameter("numbers of people must ascend, from 20 up; '' leaves the fits out")
    return sizes


@click.command()
@click.option("--repeats", default=500, show_default=True, type=click.IntRange(10, 100_000), help="Calls per timing.")
@click.option(
    "--people", default="1000,4000,16000", show_default=True, callback=_sizes, help="Sizes of the populations to fit."
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too."
)
def router(repeats: int, people: tuple[int, ...], json_path: Path | None) -> None:
    """Time of route, plan, score, choice and update by D, K and N, and of the population's fit by people."""
    torch.set_num_threads(1)
    timings: list[Timing] = []
    for size in tqdm(SIZES, desc="operations", unit=" sizes", file=sys.stderr):
        timings += measure(size, repeats)
    fits = measure_fits(people)
    click.echo(render(timings))
    click.echo(render_fits(fits))
    if json_path is not None:
        report = {
            "machine": platform.processor() or platform.machine(),
            "load": os.getloadavg()[0],
            "repeats": repeats,
            "results": [asdict(timing) for timing in timings],
            "fit_options": fit_options(),
            "fits": [asdict(fit) for fit in fits],
        }
        json_path.write_text(json.dumps(report, indent=1))


def measure(size: Size, repeats: int) -> list[Timing]:
    """Time every operation at one size."""
    return [
        Timing(name, size.D, size.K, size.N, *_time(operation, repeats)) for name, operation in operations(size).items()
    ]


def operations(size: Size) -> dict[str, Callable[[], object]]:
    """Return the calls of one request, by name; each does its whole work anew."""
    rng = np.random.default_rng(0)
    population = make_population(size, rng)
    posterior = make_posterior(population, rng)
    space, config, wishes = plain_space(population), RoutingConfig(gate=0.5), Wishes()
    found = route(posterior, space, config, wishes)
    plan = PlanConfig(size.N)
    features = rng.normal(size=(size.N, size.D))
    tensor = torch.from_numpy(features).float()
    rewards = score(features, found.judge)
    prob = rewards.prob_over(0)
    judge, options = judge_of(population, posterior), rng.normal(size=(NUM_QUESTIONS, NUM_ANSWERS, size.D))
    arriving = itertools.cycle(make_events(size, rng, NUM_ARRIVING))
    return {
        "route": lambda: route(posterior, space, config, wishes),
        "plan": lambda: plan_candidates(replace(found, taste=_afresh(found.taste)), space, plan, rng),
        "plan (again)": lambda: plan_candidates(found, space, plan, rng),
        "score": lambda: score(features, found.judge).mean,
        "score (torch)": lambda: score(tensor, found.judge).mean,
        "gate": lambda: rewards.prob_over(0),
        "choose": lambda: choose(rewards.mean, prob, 0.6),
        "update": lambda: update(population, posterior, next(arriving)),
        f"update of {NUM_EVENTS}": lambda: update_many(
            population, posterior, list(itertools.islice(arriving, NUM_EVENTS))
        ),
        f"question of {NUM_QUESTIONS}": lambda: information_gain(judge, options),
    }


def make_population(size: Size, rng: np.random.Generator) -> Population:
    """Make up a population of K prototypes with full covariances."""
    root = rng.normal(size=(size.K, size.D, size.D)) / np.sqrt(size.D)
    covariances = root @ root.transpose(0, 2, 1) + 0.2 * np.eye(size.D)
    return Population(
        basis=np.eye(size.D),
        center=np.zeros(size.D),
        scale=np.ones(size.D),
        mixture_weights=np.full(size.K, 1.0 / size.K),
        means=rng.normal(size=(size.K, size.D)),
        covariances=0.5 * (covariances + covariances.transpose(0, 2, 1)),
        base_weights=np.zeros(size.D),
    )


def make_posterior(population: Population, rng: np.random.Generator) -> Posterior:
    """Make up a person who has given ten comparisons."""
    size = Size(population.num_features, population.num_prototypes)
    return update_many(population, prior(population), make_events(size, rng, NUM_EVENTS))


def make_events(size: Size, rng: np.random.Generator, num: int) -> list[Comparison]:
    """Make up comparisons whose rewards differ by a few logits, as in fitted populations."""
    sides = rng.normal(size=(num, 2, size.D)) / np.sqrt(size.D)
    names = rng.integers(2**62, size=num)
    return [
        Comparison(event_id=str(name), chosen=chosen, rejected=rejected)
        for name, (chosen, rejected) in zip(names, sides, strict=True)
    ]


def make_table(people: int, rng: np.random.Generator) -> FeedbackTable:
    """Simulate people of four kinds who compare items at random; their tastes span `NUM_DIRECTIONS` directions."""
    features = rng.normal(size=(NUM_ITEMS, NUM_RAW))
    directions = rng.normal(size=(NUM_DIRECTIONS, NUM_RAW)) / np.sqrt(NUM_RAW)
    kinds = rng.normal(size=(FIT.num_prototypes[-1], NUM_DIRECTIONS))
    own = kinds[rng.integers(len(kinds), size=people)] + 0.5 * rng.normal(size=(people, NUM_DIRECTIONS))
    tastes = own @ directions  # (U, P)
    judges = np.repeat(np.arange(people), COMPARISONS)
    first = rng.integers(NUM_ITEMS, size=len(judges))
    second = (first + rng.integers(1, NUM_ITEMS, size=len(judges))) % NUM_ITEMS
    scores = np.sum((features[first] - features[second]) * tastes[judges], axis=1)
    won = rng.uniform(size=len(judges)) < 1.0 / (1.0 + np.exp(-scores))
    plus, minus = np.where(won, first, second), np.where(won, second, first)
    return binary_table(features, judges, plus, minus, np.zeros(len(judges)))


def measure_fits(sizes: Sequence[int]) -> list[Fit]:
    """Fit a population of each size; the bar counts persons' E-steps."""
    fits: list[Fit] = []
    with tqdm(desc="fit", unit=" persons", unit_scale=True, file=sys.stderr) as bar:
        for people in sizes:
            table = make_table(people, np.random.default_rng(0))
            start, cpu_start = time.perf_counter(), time.process_time()
            fit_population(table, plain_layout(table.features), FIT, 0, Run(counted(map, bar.update)))
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
            before = fits[-1] if fits else None
            fits.append(
                Fit(
                    people=people,
                    seconds=seconds,
                    seconds_per_1000=1000.0 * seconds / people,
                    growth=_growth(before.people, people, before.seconds, seconds) if before else None,
                    cpu_seconds=cpu,
                    cpu_growth=_growth(before.people, people, before.cpu_seconds, cpu) if before else None,
                )
            )
    return fits


def fit_options() -> dict[str, int]:
    """Return what was held fixed while the number of people grew."""
    return {
        "comparisons_per_person": COMPARISONS,
        "raw_features": NUM_RAW,
        "D": NUM_DIRECTIONS + 1,  # and everyone's shared reward
        "K": FIT.num_prototypes[-1],
        "em_iterations": FIT.em_iterations,
        "basis_iterations": FIT.basis.max_iterations,
    }


def render(timings: list[Timing]) -> str:
    """Render a table: one row an operation and size, sizes grouped by operation so that growth reads downwards."""
    head = f"{'operation':<18}{'D':>5}{'K':>5}{'N':>5}{'median us':>12}{'p95 us':>10}{'cpu us':>10}"
    lines = [head]
    names = dict.fromkeys(timing.operation for timing in timings)
    for name in names:
        rows = sorted((t for t in timings if t.operation == name), key=lambda t: (t.D, t.K, t.N))
        for t in rows:
            sizes = f"{t.operation:<18}{t.D:>5}{t.K:>5}{t.N:>5}"
            lines.append(f"{sizes}{t.median_us:>12.1f}{t.p95_us:>10.1f}{t.cpu_us:>10.1f}")
    return "\n".join(lines)


def render_fits(fits: Sequence[Fit]) -> str:
    """Render a table: one row a number of people, with the growth from the row before (1 is linear)."""
    options = ", ".join(f"{name} {value}" for name, value in fit_options().items())
    lines = [f"fit: {options}", f"{'people':>8}{'s':>10}{'s/1000':>10}{'growth':>8}{'cpu s':>10}{'growth':>8}"]
    for fit in fits:
        wall, cpu = (f"{growth:.2f}" if growth is not None else "" for growth in (fit.growth, fit.cpu_growth))
        row = f"{fit.people:>8}{fit.seconds:>10.2f}{fit.seconds_per_1000:>10.2f}{wall:>8}"
        lines.append(f"{row}{fit.cpu_seconds:>10.2f}{cpu:>8}")
    return "\n".join(lines)


def _growth(fewer: int, more: int, before_s: float, after_s: float) -> float:
    return math.log(after_s / before_s) / math.log(more / fewer)


def _afresh(taste: Mixture) -> Mixture:
    """Return the same mixture with nothing worked out yet."""
    return Mixture(taste.weights, taste.means, taste.covariances)


def _time(operation: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    for _ in range(WARM_UP):
        operation()
    times = np.empty((2, repeats))  # by the wall clock, of the processor
    for i in range(repeats):
        start, cpu_start = time.perf_counter(), time.thread_time()
        operation()
        times[:, i] = time.perf_counter() - start, time.thread_time() - cpu_start
    wall, cpu = 1e6 * times
    return float(np.median(wall)), float(np.quantile(wall, 0.95)), float(np.median(cpu))


if __name__ == "__main__":
    router()
