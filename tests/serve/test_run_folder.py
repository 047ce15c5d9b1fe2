"""Folders of runs: there while somebody runs, gone when it ends, and swept after one that was killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from serve.run_folder import LOCK, PREFIX, remove_abandoned, run_folder

# Says where its folder is and waits.
RUN = """
from serve.run_folder import run_folder
with run_folder() as folder:
    (folder / "socket").touch()
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # read the environment again
    return tmp_path


def started() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_a_run_s_folder_goes_with_it(temporary: Path) -> None:
    with run_folder() as folder:
        (folder / "ray" / "session").mkdir(parents=True)
        assert folder.parent == temporary
        assert folder.name.startswith(PREFIX)
    assert list(temporary.iterdir()) == []


def test_it_goes_when_the_run_fails(temporary: Path) -> None:
    with pytest.raises(RuntimeError), run_folder():
        raise RuntimeError
    assert list(temporary.iterdir()) == []


def test_what_a_killed_run_left_goes_at_the_next_start(temporary: Path) -> None:
    process, left = started()
    process.kill()
    process.communicate()
    assert (left / "socket").exists()
    with run_folder() as folder:
        assert list(temporary.iterdir()) == [folder]


def test_the_folder_of_a_run_that_lives_stays() -> None:
    process, folder = started()
    with run_folder():
        assert (folder / "socket").exists()
    assert (folder / "socket").exists()
    process.communicate("")
    assert not folder.exists()


def test_folders_that_are_no_run_s_stay(temporary: Path) -> None:
    (temporary / f"{PREFIX}evaluate-1").mkdir()
    (temporary / f"{PREFIX}new").mkdir()
    (temporary / f"{PREFIX}new" / f"{LOCK}.new").touch()  # about to start
    (temporary / "other").mkdir()
    (temporary / "other" / LOCK).touch()
    remove_abandoned()
    assert len(list(temporary.iterdir())) == 3
