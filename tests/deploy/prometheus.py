"""Debian's Prometheus for tests: found, or installed where that is allowed; started on a free port, asked over HTTP."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.deploy.chart import CHART
from tests.patience import wait_until
from tests.ports import free_port

INSTALL = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "prometheus")
RULES = CHART / "rules" / "palate.yaml"
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
METRIC = re.compile(r"\b(?:palate_|vllm:)[a-z0-9_]+")
RATE_INTERVAL_S = 30


@functools.cache
def find_binary(name: str) -> str | None:
    """Find `prometheus` or `promtool`; as root on Debian, install them once."""
    binary = shutil.which(name)
    if binary is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for command in (("apt-get", "update", "-qq"), INSTALL):
            subprocess.run(command, check=False, timeout=240, env=environment, capture_output=True)
        binary = shutil.which(name)
    return binary


def dashboard_queries() -> list[tuple[str, str]]:
    """List (dashboard and panel, query)."""
    queries = []
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            queries += [(f"{path.stem}: {panel['title']}", target["expr"]) for target in panel.get("targets", [])]
    return queries


def rule_queries() -> list[tuple[str, str]]:
    """List (alert, query)."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]


def names_in(query: str) -> set[str]:
    """Name the metrics of a query."""
    return set(METRIC.findall(query))


def names_of(scrape: str) -> set[str]:
    """Name the series of a scrape."""
    return {re.split(r"[{ ]", line, maxsplit=1)[0] for line in scrape.splitlines() if line and line[0] != "#"}


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Run an instant query, with Grafana's variables filled in."""
        plain = query.replace("$__rate_interval", f"{RATE_INTERVAL_S}s").replace("$instance", ".*")
        answer = httpx.get(f"{self._url}/api/v1/query", params={"query": plain}, timeout=60.0, trust_env=False)
        answer.raise_for_status()  # 503 while it starts
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def wait_for(self, query: str) -> None:
        """Wait until a query returns something."""
        wait_until(lambda: self._has(query))

    def _has(self, query: str) -> bool:
        with contextlib.suppress(httpx.HTTPError):  # while it starts
            return bool(self.ask(query))
        return False

    def firing(self) -> list[str]:
        """Name the alerts that fire; what is only pending may be a slow machine's."""
        rules = [rule for rule in self.rules() if rule["type"] == "alerting"]
        return [rule["name"] for rule in rules for alert in rule["alerts"] if alert["state"] == "firing"]

    def rules(self) -> list[dict[str, Any]]:
        """List the rules with their health."""
        groups = httpx.get(f"{self._url}/api/v1/rules", timeout=60.0, trust_env=False).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextlib.contextmanager
def scraping(binary: str, folder: Path, target: str) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes a server every two seconds, with our rules."""
    config = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "palate", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    flags = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
        "log.level": "error",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary, *(f"--{name}={value}" for name, value in flags.items())], stdout=log, stderr=log
        )
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(60)
