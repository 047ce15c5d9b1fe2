"""E-steps on this machine or on a Ray cluster: each person's is a function of that person's evidence alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

from router.laplace import Mode
from router.population import MapPeople, Task

CHUNK = 250  # people a task: an E-step of one takes about 2 ms, a Ray task about 1 ms


@contextmanager
def ray_workers(address: str | None, num_workers: int | None) -> Iterator[MapPeople]:
    """Connect to a cluster, or start Ray here with so many workers; let go afterwards."""
    import ray  # noqa: PLC0415 - seconds

    options: dict[str, Any] = {"address": address} if address else {"num_cpus": num_workers, "include_dashboard": False}
    ray.init(log_to_driver=False, logging_level="ERROR", **options)
    run = ray.remote(_run)

    def map_people(work: Callable[[Task], Mode], tasks: Sequence[Task]) -> Iterable[Mode]:
        chunks = [tasks[start : start + CHUNK] for start in range(0, len(tasks), CHUNK)]
        return chain.from_iterable(ray.get([run.remote(work, list(chunk)) for chunk in chunks]))

    try:
        yield map_people
    finally:
        ray.shutdown()


def counted(map_people: MapPeople, progress: Callable[[int], object]) -> MapPeople:
    """Report the people of each E-step as they are done."""

    def mapped(work: Callable[[Task], Mode], tasks: Sequence[Task]) -> Iterable[Mode]:
        found = iter(map_people(work, tasks))
        while done := list(islice(found, CHUNK)):
            progress(len(done))
            yield from done

    return mapped


def _run(work: Callable[[Task], Mode], tasks: Sequence[Task]) -> list[Mode]:
    return [work(task) for task in tasks]
