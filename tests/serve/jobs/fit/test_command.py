"""`palate fit` from a store to a published version."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from router.em import Believed, Task, believe
from router.laplace import gaussian
from router.tabulation import tabulate
from router.types import Comparison
from serve.artifacts.registry import Registry
from serve.artifacts.storage import load, save
from serve.cli import palate
from serve.errors import ConfigurationError
from serve.home import Home
from serve.jobs.fit.command import GATHERED, _removed, _work_folder
from serve.jobs.fit.fitting import RefitConfig
from serve.jobs.fit.workers import counted, ray_workers
from tests.serve.artifacts.test_storage import manifest_of
from tests.serve.jobs.fit.cases import PARENT, fill
from user_store.sqlite_store import open_sqlite


def run(*arguments: str) -> str:
    result = CliRunner().invoke(palate, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path))
    save(PARENT, manifest_of(PARENT), tmp_path / "artifacts")

    async def prepare() -> None:
        store = open_sqlite(tmp_path / "palate.db")
        await fill(store, 40, 12)
        await store.close()

    asyncio.run(prepare())
    return ["--url", f"sqlite://{tmp_path}/palate.db", "--from", "a1", "--rank", "1"]


def test_a_fit_is_judged_described_and_published(tmp_path: Path, options: list[str]) -> None:
    output = run("fit", *options)
    assert "better than its parent" in output
    version = Path(output.strip().splitlines()[-1]).name
    entry = Registry(Home(tmp_path)).entry(version)
    assert entry.manifest.parents == ("a1",)
    data = entry.manifest.data
    held_out = entry.manifest.metrics["held_out"]["num_people"]
    assert data["people"] + held_out == 40
    assert 2 <= held_out <= 16
    assert data["largest_share_of_a_person"] == pytest.approx(1 / data["people"])
    assert 0.0 < entry.manifest.data["largest_move_by_a_person"] <= 0.25
    assert load(entry.folder).audit == PARENT.audit
    assert f"{version} serves" in run("artifacts", "publish", version)  # nothing served this model
    assert not list((tmp_path / "fit").iterdir())  # people's numbers do not outlive the run


def test_a_killed_fit_goes_on(tmp_path: Path, options: list[str]) -> None:
    environment = dict(os.environ) | {"PALATE_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", "fit", *options], env=environment, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 60.0
        while len(list((tmp_path / "fit").glob("*/[0-9]*.npz"))) < 8:
            assert process.poll() is None, "the fit ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    assert stat.S_IMODE(next((tmp_path / "fit").iterdir()).stat().st_mode) == 0o700
    (tmp_path / "palate.db").rename(tmp_path / "away.db")  # nothing is read twice
    output = run("fit", *options)
    assert int(output.split(" steps were taken over")[0].split()[-1]) >= 8
    assert "better than its parent" in output


def test_a_failed_fit_reads_everybody_anew(tmp_path: Path, options: list[str]) -> None:
    refused = CliRunner().invoke(palate, ["fit", *options, "--min-people", "60"])
    assert isinstance(refused.exception, ConfigurationError)
    assert not list((tmp_path / "fit").iterdir())


def test_an_interrupted_fit_keeps_what_it_found(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(KeyboardInterrupt), _removed(work):
        raise KeyboardInterrupt
    assert work.exists()
    with pytest.raises(ConfigurationError), _removed(work):
        raise ConfigurationError("exists")
    assert not work.exists()


def test_what_was_gathered_long_ago_is_gathered_again(tmp_path: Path, options: list[str]) -> None:
    url = options[1]
    config = RefitConfig(rank=1)
    folder = _work_folder(Home(tmp_path), "a1", url, 200, config)
    (folder / GATHERED).write_bytes(b"old")
    assert _work_folder(Home(tmp_path), "a1", url, 200, config) == folder
    assert (folder / GATHERED).exists()
    os.utime(folder / GATHERED, (0.0, 0.0))
    _work_folder(Home(tmp_path), "a1", url, 200, config)
    assert not (folder / GATHERED).exists()
    assert _work_folder(Home(tmp_path), "a1", url, 100, config) != folder


def tasks_of(sizes: list[int]) -> list[Task]:
    """Blocks of people who said nothing, told apart by where their searches start."""
    factor = gaussian(np.zeros((1, 2)), np.eye(2)[None])
    heard = Comparison(event_id="e", chosen=np.ones(1), rejected=np.zeros(1))
    table = tabulate([[heard], *([[]] * max(sizes))])
    silent = table.evidence_of(table.features, np.zeros(1))[1:]
    return [
        Task(silent[:size], factor, np.zeros(1), 0.0, np.full((size, 1, 2), number))
        for number, size in enumerate(sizes)
    ]


def starts_of(task: Task) -> Believed:
    return Believed(np.zeros((len(task.people), 1)), task.starts, np.zeros((1, 2, 2)))


def test_progress_counts_people_in_order() -> None:
    seen: list[int] = []
    found = list(counted(map, seen.append)(starts_of, tasks_of([250, 3])))
    assert [float(one.means[0, 0, 0]) for one in found] == [0.0, 1.0]
    assert seen == [250, 3]


@pytest.mark.slow
def test_ray_workers_find_what_one_process_finds() -> None:
    tasks = tasks_of([250, 250, 1])
    with ray_workers(None, 2) as map_people:
        for there, here in zip(map_people(believe, tasks), map(believe, tasks), strict=True):
            np.testing.assert_array_equal(there.joint, here.joint)
            np.testing.assert_array_equal(there.means, here.means)
            np.testing.assert_array_equal(there.doubt, here.doubt)
