"""The folder of one run of the server: sockets, logs and metric files, gone when it ends.

A run that is killed leaves its folder behind, so each start removes those whose owner is gone: an owner holds a lock in
its folder for as long as it lives. Knows nothing of what is put there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "palate-"
LOCK = "run.lock"


@contextmanager
def run_folder() -> Iterator[Path]:
    """Make a folder for this run and remove it at the end; short, because Unix socket paths are."""
    remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    with (folder / f"{LOCK}.new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.replace(lock.name, folder / LOCK)  # nobody ever sees it without its owner
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove this user's run folders that nobody owns any more."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), path.open() as lock:  # gone meanwhile, somebody else's, or in use
            if os.fstat(lock.fileno()).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
