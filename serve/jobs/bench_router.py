"""`palate bench router`: what the preference core costs per request, and how cost grows with D, K and N.

Times routing, planning, scoring (numpy and torch), the gate and the choice on made-up people, one size varied at a
time, on one thread, in this process. Knows nothing of engines or servers; the figures are this machine's.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch

from router.candidates import PlanConfig, plan_candidates
from router.elicitation import information_gain
from router.reward import score
from router.routing import RoutingConfig, Wishes, judge_of, plain_space, route
from router.selection import choose
from router.types import Evidence, Population, Posterior

WARM_UP = 20
NUM_PAIRS = 256  # candidate questions for elicitation


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


DEFAULT = Size()
SIZES = (
    DEFAULT,
    *(Size(D=D) for D in (8, 16, 64)),
    *(Size(K=K) for K in (1, 4, 16)),
    *(Size(N=N) for N in (1, 16, 32)),
)


@click.command()
@click.option("--repeats", default=500, show_default=True, type=click.IntRange(10, 100_000), help="Calls per timing.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too."
)
def router(repeats: int, json_path: Path | None) -> None:
    """Time of route, plan, score and choice by D, K and N."""
    torch.set_num_threads(1)
    timings = [timing for size in SIZES for timing in measure(size, repeats)]
    click.echo(render(timings))
    if json_path is not None:
        report = {"machine": platform.processor() or platform.machine(), "repeats": repeats}
        json_path.write_text(json.dumps(report | {"results": [asdict(timing) for timing in timings]}, indent=1))


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
    plan, still = PlanConfig(size.N), np.zeros(size.D)  # a fresh taste each time: its factors must not be ready
    features = rng.normal(size=(size.N, size.D))
    tensor = torch.from_numpy(features).float()
    rewards = score(features, found.judge)
    prob = rewards.prob_over(0)
    judge, pairs = judge_of(population, posterior), rng.normal(size=(NUM_PAIRS, size.D))
    return {
        "route": lambda: route(posterior, space, config, wishes),
        "plan": lambda: plan_candidates(replace(found, taste=found.taste.affine(1.0, still)), space, plan, rng),
        "score": lambda: score(features, found.judge).mean,
        "score (torch)": lambda: score(tensor, found.judge).mean,
        "gate": lambda: rewards.prob_over(0),
        "choose": lambda: choose(rewards.mean, prob, 0.6),
        f"question of {NUM_PAIRS}": lambda: information_gain(judge, pairs),
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
    """Make up a person: the prior, narrowed to half its variance around somebody of each prototype."""
    K, D = population.num_prototypes, population.num_features
    precision = np.zeros((K, D + 1, D + 1))
    precision[:, :D, :D] = 2.0 * np.linalg.inv(population.covariances)
    precision[:, D, D] = 1.0
    latent = np.concatenate([population.means + rng.normal(size=(K, D)), np.zeros((K, 1))], axis=1)
    nothing, no_groups = np.zeros(0), np.zeros(0, np.int64)
    return Posterior(
        precision=precision,
        shift=np.einsum("kij,kj->ki", precision, latent),
        log_evidence=rng.normal(size=K),
        log_mixture_weights=np.log(population.mixture_weights),
        evidence=Evidence(
            np.zeros((0, D + 1)), nothing, no_groups, nothing, nothing, nothing, nothing, nothing, (), ()
        ),
        folded_precision=np.zeros_like(precision),
        folded_shift=np.zeros((K, D + 1)),
        folded_log_evidence=np.zeros(K),
        folded_time_s=0.0,
        num_events=10,
        flip_rate=population.flip_rate,
        population_version=population.version,
    )


def render(timings: list[Timing]) -> str:
    """Render a table: one row an operation and size, sizes grouped by operation so that growth reads downwards."""
    lines = [f"{'operation':<18}{'D':>5}{'K':>5}{'N':>5}{'median us':>12}{'p95 us':>10}"]
    names = dict.fromkeys(timing.operation for timing in timings)
    for name in names:
        rows = sorted((t for t in timings if t.operation == name), key=lambda t: (t.D, t.K, t.N))
        lines += [f"{t.operation:<18}{t.D:>5}{t.K:>5}{t.N:>5}{t.median_us:>12.1f}{t.p95_us:>10.1f}" for t in rows]
    return "\n".join(lines)


def _time(operation: Callable[[], object], repeats: int) -> tuple[float, float]:
    for _ in range(WARM_UP):
        operation()
    times = np.empty(repeats)
    for i in range(repeats):
        start = time.perf_counter()
        operation()
        times[i] = time.perf_counter() - start
    return float(np.median(times) * 1e6), float(np.quantile(times, 0.95) * 1e6)


if __name__ == "__main__":
    router()
