"""The chain's surroundings: a fresh home, the product's own commands run in it, and what each stage took.

Knows nothing of what the stages find out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from serve.errors import ConfigurationError
from serve.home import Home


@dataclass(frozen=True)
class Stages:
    """Seconds by the wall clock, in the order in which stages ran."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time one stage."""
        click.echo(f"{name} …", err=True)
        begin = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begin, 1)


@contextmanager
def fresh_home() -> Iterator[Home]:
    """Make an empty `PALATE_HOME` that sees the models fetched before; it vanishes afterwards."""
    models = Home.from_env().models
    before = os.environ.get("PALATE_HOME")
    with tempfile.TemporaryDirectory(prefix="palate-chain-") as name:
        home = Home(Path(name) / "home").create()
        if models.is_dir():
            home.models.symlink_to(models, target_is_directory=True)
        os.environ["PALATE_HOME"] = str(home.path)
        try:
            yield home
        finally:
            if before is None:
                del os.environ["PALATE_HOME"]
            else:
                os.environ["PALATE_HOME"] = before


def command(*arguments: str, accepted: tuple[int, ...] = (0,)) -> tuple[int, str]:
    """Run `palate` with arguments; return its exit status and what it printed.

    Raises:
        ConfigurationError: another exit status than those accepted, with its last words.
    """
    done = subprocess.run(  # noqa: S603 - a command line made here
        [sys.executable, "-m", "serve", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode not in accepted:
        raise ConfigurationError(f"palate {' '.join(arguments)} failed: {done.stderr[-1_000:]}")
    return done.returncode, done.stdout.strip()
