"""`palate fit` from a store to a published version."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from router.laplace import Mode
from router.population import Task
from serve.artifacts.registry import Registry
from serve.artifacts.storage import load, save
from serve.cli import palate
from serve.home import Home
from serve.jobs.fit.workers import CHUNK, counted
from tests.serve.artifacts.test_storage import manifest_of
from tests.serve.jobs.fit.cases import PARENT, fill
from user_store.sqlite_store import open_sqlite


def run(*arguments: str) -> str:
    result = CliRunner().invoke(palate, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_fit_publish_and_go_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path))
    save(PARENT, manifest_of(PARENT), tmp_path / "artifacts")

    async def prepare() -> None:
        store = open_sqlite(tmp_path / "palate.db")
        await fill(store, 40, 12)
        await store.close()

    asyncio.run(prepare())
    url = f"sqlite://{tmp_path}/palate.db"
    options = ["--url", url, "--from", "a1", "--rank", "1", "--work", str(tmp_path / "work")]
    output = run("fit", *options)
    assert "better than its parent" in output
    version = Path(output.strip().splitlines()[-1]).name
    entry = Registry(Home(tmp_path)).entry(version)
    assert entry.manifest.parents == ("a1",)
    assert entry.manifest.data["people"] == 40
    assert entry.manifest.data["largest_share_of_a_person"] == pytest.approx(1 / 40)
    assert load(entry.folder).audit == PARENT.audit
    run("artifacts", "publish", version)
    # What was gathered is kept: without the store the same run goes on from there, and finds the same.
    (tmp_path / "palate.db").unlink()
    again = CliRunner().invoke(palate, ["fit", *options])
    assert "written once" in str(again.exception)


def test_progress_counts_people_in_order() -> None:
    seen: list[int] = []
    tasks = list(range(CHUNK + 3))
    mapped = counted(map, seen.append)(lambda task: task, tasks)  # type: ignore[arg-type, return-value]
    assert [int(str(mode)) for mode in mapped] == tasks
    assert seen == [CHUNK, 3]


@pytest.mark.slow
def test_ray_workers_find_what_one_process_finds() -> None:
    from serve.jobs.fit.workers import ray_workers

    def double(task: Task) -> Mode:
        return 2 * task  # type: ignore[operator, return-value]

    tasks = [np.float64(i) for i in range(2 * CHUNK + 1)]
    with ray_workers(None, 2) as map_people:
        assert list(map_people(double, tasks)) == [2 * task for task in tasks]  # type: ignore[arg-type]
