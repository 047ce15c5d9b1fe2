"""A real `palate serve` in a process tree of its own, for tests that speak HTTP."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import yaml

from tests.patience import PATIENCE_S, wait_until
from tests.ports import free_port

START_TIMEOUT_S = 280.0
STOP_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Server:
    """A running server."""

    base_url: str
    model: str
    process: psutil.Process

    def replica(self, deployment: str) -> psutil.Process:
        """Find the process of a deployment's replica."""
        for process in self.process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if f"ServeReplica:palate:{deployment}" in " ".join(process.cmdline()):
                    return process
        raise LookupError(deployment)

    def is_ready(self) -> bool:
        """Ask `/ready`."""
        try:
            return httpx.get(f"{self.base_url}/ready", timeout=30.0, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def wait_until(self, *, ready: bool) -> None:
        """Wait for `/ready` to say so."""
        wait_until(lambda: self.is_ready() == ready)

    def kill(self, deployment: str) -> None:
        """SIGKILL a deployment's replica; return when it is gone, so that nothing seen later is still its own."""
        replica = self.replica(deployment)
        replica.kill()
        replica.wait(PATIENCE_S)


@contextlib.contextmanager
def running_server(
    folder: Path, engine: str, settings: dict[str, dict[str, object]] | None = None, api_key: str | None = None
) -> Iterator[Server]:
    """Start a server, wait for its line with the address, stop it, and check that no process and no folder is left."""
    port = free_port()
    tree: dict[str, dict[str, object]] = {
        "http": {"port": port},
        "engine": {"kind": engine},
        "store": {"url": f"sqlite://{folder}/palate.db"},  # never the developer's own
    }
    for section, values in (settings or {}).items():
        tree.setdefault(section, {}).update(values)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    environment = {**os.environ, **({"PALATE_API_KEY": api_key} if api_key else {})}
    with (folder / "stderr.log").open("w") as stderr:
        popen = subprocess.Popen(
            [sys.executable, "-m", "serve", "serve", "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
            start_new_session=True,
        )
    process = psutil.Process(popen.pid)
    family: list[psutil.Process] = []
    folders: set[Path] = set()
    try:
        _wait_for_address(popen, folder)
        model = httpx.get(f"http://127.0.0.1:{port}/version", timeout=PATIENCE_S, trust_env=False).json()["model"]
        yield Server(f"http://127.0.0.1:{port}", model, process)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = process.children(recursive=True)
        folders = {folder for one in family for folder in _run_folders(one)}
        popen.send_signal(signal.SIGTERM)
        try:
            popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            popen.kill()
            raise
        finally:
            popen.wait()
            if popen.stdout:
                popen.stdout.close()
            _, left = psutil.wait_procs(family, timeout=30.0)
            for orphan in left:
                orphan.kill()
    assert not left, f"left behind: {left}"
    assert popen.returncode == 0
    assert folders, "no process says where the run's folder is"
    assert not [folder for folder in folders if folder.exists()]


def _run_folders(process: psutil.Process) -> list[Path]:
    """Find where a server's process keeps its sockets, if it says so."""
    with contextlib.suppress(psutil.Error):
        sockets = process.environ().get("VLLM_RPC_BASE_PATH")
        return [Path(sockets).parent] if sockets else []
    return []


def _wait_for_address(popen: subprocess.Popen[str], folder: Path) -> None:
    lines: queue.Queue[str] = queue.Queue()
    assert popen.stdout is not None
    stdout = popen.stdout

    def read() -> None:
        for line in stdout:
            lines.put(line)

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(queue.Empty):
            if "Palate answers on http://" in lines.get(timeout=0.5):
                return
        if popen.poll() is not None or time.monotonic() > deadline:
            raise AssertionError("the server did not start:\n" + (folder / "stderr.log").read_text()[-4_000:])
