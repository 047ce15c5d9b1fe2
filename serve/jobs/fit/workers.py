"""E-steps on this machine or on a Ray cluster: each block of people's is a function of their evidence alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from router.em import Believed, MapPeople, Task


@contextmanager
def ray_workers(address: str | None, num_workers: int | None) -> Iterator[MapPeople]:
    """Connect to a cluster, or start Ray here with so many workers; let go afterwards."""
    import ray  # noqa: PLC0415 - seconds

    options: dict[str, Any] = {"address": address} if address else {"num_cpus": num_workers, "include_dashboard": False}
    ray.init(log_to_driver=False, logging_level="ERROR", **options)
    run = ray.remote(_run)

    def map_people(work: Callable[[Task], Believed], tasks: Sequence[Task]) -> Iterable[Believed]:
        found = [run.remote(work, task) for task in tasks]
        return (ray.get(one) for one in found)

    try:
        yield map_people
    finally:
        ray.shutdown()


def counted(map_people: MapPeople, progress: Callable[[int], object]) -> MapPeople:
    """Report the people of each E-step as they are done."""

    def mapped(work: Callable[[Task], Believed], tasks: Sequence[Task]) -> Iterable[Believed]:
        for believed in map_people(work, tasks):
            progress(len(believed.joint))
            yield believed

    return mapped


def _run(work: Callable[[Task], Believed], task: Task) -> Believed:
    return work(task)
