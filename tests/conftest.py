"""Every test runs with a `PALATE_HOME` of its own: nothing is read from, or left in, that of whoever runs the tests.

Models and compiler caches are shared with it, as they take minutes to make.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from serve.home import Home


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before, theirs = os.environ.get("PALATE_HOME"), Home.from_env().create()
    own = Home(tmp_path_factory.mktemp("home"))
    for kept, shared in ((own.models, theirs.models), (own.cache, theirs.cache)):
        shared.mkdir(exist_ok=True)
        kept.symlink_to(shared, target_is_directory=True)
    os.environ["PALATE_HOME"] = str(own.path)
    yield
    os.environ.pop("PALATE_HOME")
    if before is not None:
        os.environ["PALATE_HOME"] = before
