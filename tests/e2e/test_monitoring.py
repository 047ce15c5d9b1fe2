"""What dashboards and alerts ask for is what running servers say, and Prometheus finds data behind every query."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.jobs.metrics import exporter
from tests.deploy.prometheus import (
    INSTALL,
    dashboard_queries,
    find_binary,
    names_in,
    names_of,
    rule_queries,
    scraping,
)
from tests.e2e.server import Server
from tests.patience import PATIENCE_S


def traffic(server: Server) -> None:
    """Ask, judge and fail, so that everything that can be counted is."""
    with httpx.Client(base_url=server.base_url, timeout=PATIENCE_S, trust_env=False) as client:
        for person in (f"monitored-{secrets.token_hex(4)}" for _ in range(2)):  # new ones start with base answers
            for turn in range(6):
                body: dict[str, Any] = {
                    "model": server.model,
                    "user": person,
                    "messages": [{"role": "user", "content": f"Tell me of rivers, {turn}. [[tokens: 40]]"}],
                    "max_tokens": 40,
                    "stream": turn == 5,
                }
                answer = client.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200
                if not body["stream"]:
                    thumb = {"kind": "thumb", "completion_id": answer.json()["id"], "value": -1 if turn % 3 == 2 else 1}
                    assert client.post("/v1/feedback", json=thumb).status_code == 200
        assert client.post("/v1/chat/completions", json={"model": "unknown", "messages": []}).status_code == 400


def test_every_query_names_a_metric_that_is_scraped(scripted_server: Server) -> None:
    traffic(scripted_server)
    there = names_of(httpx.get(f"{scripted_server.base_url}/metrics", timeout=PATIENCE_S, trust_env=False).text)
    for where, query in (*dashboard_queries(), *rule_queries()):
        ours = {name for name in names_in(query) if name.startswith("palate_")}
        ours.discard("palate_experiment_share")  # a gauge of experiments, and none runs here
        assert ours <= there, where


@pytest.mark.engine
def test_the_engine_s_own_metrics_are_scraped(vllm_server: Server) -> None:
    there = names_of(httpx.get(f"{vllm_server.base_url}/metrics", timeout=PATIENCE_S, trust_env=False).text)
    asked = {name for _, query in (*dashboard_queries(), *rule_queries()) for name in names_in(query)}
    assert {name for name in asked if name.startswith("vllm:")} <= there


def test_prometheus_finds_data_behind_every_query(scripted_server: Server, tmp_path: Path) -> None:
    binary = find_binary("prometheus")
    if binary is None:
        pytest.skip(f"no prometheus here; install it with: {' '.join(INSTALL)}")
    traffic(scripted_server)
    with scraping(binary, tmp_path, scripted_server.base_url.removeprefix("http://")) as prometheus:
        prometheus.wait_for("palate_ready == 1")
        traffic(scripted_server)
        prometheus.wait_for('increase(palate_thumbs_total{value="up",arm="base"}[30s]) > 0')
        prometheus.wait_for('increase(palate_requests_total{status="400"}[30s]) > 0')
        for where, query in dashboard_queries():
            if "vllm:" not in query and "palate_experiment" not in query:  # none runs here
                assert prometheus.ask(query), (where, query)
        prometheus.wait_for("palate_reward_gain_logits_count > 0")
        assert [sample["value"][1] for sample in prometheus.ask("up")] == ["1"]
        unhealthy = [rule for rule in prometheus.rules() if rule["health"] == "err"]
        assert not unhealthy
        assert prometheus.firing() == []


def test_an_exporter_says_the_same_without_the_ingress(scripted_server: Server) -> None:
    environment = scripted_server.replica("Ingress").environ()
    folder = environment["PROMETHEUS_MULTIPROC_DIR"]
    assert os.path.isdir(folder)
    with exporter(folder, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            beside = httpx.get(f"{url}/metrics", timeout=PATIENCE_S, trust_env=False)
            assert httpx.get(f"{url}/health", timeout=PATIENCE_S, trust_env=False).status_code == 200
            assert httpx.get(f"{url}/", timeout=PATIENCE_S, trust_env=False).status_code == 404
        finally:
            server.shutdown()
            thread.join()
    assert names_of(beside.text) == names_of(
        httpx.get(f"{scripted_server.base_url}/metrics", timeout=PATIENCE_S, trust_env=False).text
    )
