"""A server of one's own for an evaluation: `palate serve` with a store that vanishes with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import httpx
import yaml

from serve.config import Config
from serve.errors import EngineUnavailable

START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Started:
    """A running server."""

    url: str
    pid: int | None = None  # the process that all of its others are below, if known


@contextmanager
def own_server(config: Config) -> Iterator[str]:
    """Start a server as `started` does, and give its URL alone."""
    with started(config) as server:
        yield server.url


@contextmanager
def started(config: Config, store_url: str | None = None) -> Iterator[Started]:
    """Start a server with this configuration, another port and an empty store (or the one given); end it afterwards.

    Raises:
        EngineUnavailable: it does not start; its last words are in the message.
    """
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="palate-evaluate-") as name:
        folder = Path(name)
        tree = config.model_dump(mode="json", exclude_unset=True)
        tree.setdefault("http", {}).update(host="127.0.0.1", port=port)
        tree.setdefault("store", {})["url"] = store_url or f"sqlite://{folder}/palate.db"
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))
        command = [sys.executable, "-m", "serve", "serve", "--config", str(folder / "config.yaml")]
        click.echo("starting a server", err=True)
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(  # noqa: S603 - a command line made here
                command, env=dict(os.environ), stdout=log, stderr=log, start_new_session=True
            )
            # Being asked to end must not leave the server behind.
            before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
            try:
                _wait_until_ready(f"http://127.0.0.1:{port}", process, folder / "log")
                yield Started(f"http://127.0.0.1:{port}", process.pid)
            finally:
                signal.signal(signal.SIGTERM, before)
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace")[-2_000:]
            raise EngineUnavailable(f"The server did not start. It said last: {last}")
        try:
            if httpx.get(f"{url}/ready", timeout=2.0, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
