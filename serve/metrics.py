"""What the server counts, and how the counts leave several processes.

prometheus-client's multiprocess mode: every replica on a node writes to one folder (`PROMETHEUS_MULTIPROC_DIR`, set at
start), and any ingress renders the sum of all of them, vLLM's own metrics included. Labels never name a person.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
STAGE_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
PREFIXES = ("palate_", "vllm:")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The server's own metrics, on one registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "palate_requests", "Requests by path and status.", ("path", "status"), registry=self._registry
        )
        self.request_seconds = Histogram(
            "palate_request_seconds",
            "Time from the first byte in to the last byte out.",
            ("path",),
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self.first_byte_seconds = Histogram(
            "palate_first_byte_seconds",
            "Time to the answer's first byte; of a stream, to its first token.",
            ("path",),
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self.requests_running = Gauge(
            "palate_requests_running", "Requests in flight.", multiprocess_mode="livesum", registry=self._registry
        )

        self.generations_running = Gauge(
            "palate_generations_running",
            "Generations in the engines.",
            multiprocess_mode="livesum",
            registry=self._registry,
        )

        self.answers = Counter(
            "palate_answers",
            "Chat answers by whether and why they were personalized.",
            ("reason",),
            registry=self._registry,
        )
        self.candidates = Counter("palate_candidates", "Candidates generated.", registry=self._registry)
        self.candidate_tokens = Counter(
            "palate_candidate_tokens",
            "Tokens of candidates: served, or spent on candidates that were not.",
            ("fate",),
            registry=self._registry,
        )
        self.choices = Counter(
            "palate_choices", "Choices among candidates by why the winner won.", ("reason",), registry=self._registry
        )
        self.routing_seconds = Histogram(
            "palate_routing_seconds",
            "Time from the parsed request to the plan, the store's read included.",
            buckets=STAGE_BUCKETS_S,
            registry=self._registry,
        )
        self.choosing_seconds = Histogram(
            "palate_choosing_seconds",
            "Time spent on measuring, scoring and choosing candidates.",
            buckets=STAGE_BUCKETS_S,
            registry=self._registry,
        )
        self.reward_gain = Histogram(
            "palate_reward_gain_logits",
            "Expected reward of the served answer over the base answer.",
            buckets=(-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0),
            registry=self._registry,
        )

        self.feedback = Counter(
            "palate_feedback", "Feedback taken, by kind; duplicates apart.", ("kind", "result"), registry=self._registry
        )
        self.store_failures = Counter(
            "palate_store_failures", "Requests that the store could not serve.", ("path",), registry=self._registry
        )

    def render(self) -> bytes:
        """Render everything in Prometheus' text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        _forget_dead_processes(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        registry = CollectorRegistry()
        registry.register(_Ours(MultiProcessCollector(None)))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class _Ours:
    """Leaves out the metrics of Ray's own processes, which inherit the folder."""

    def __init__(self, collector: MultiProcessCollector) -> None:
        self._collector = collector

    def collect(self) -> Iterator[Metric]:
        for metric in self._collector.collect():  # type: ignore[no-untyped-call]
            if metric.name.startswith(PREFIXES):
                yield metric


def _forget_dead_processes(folder: str) -> None:
    """Drop the live gauges of processes that were killed; their counters stay."""
    for path in Path(folder).glob("gauge_live*.db"):
        pid = path.stem.rsplit("_", 1)[1]
        if not Path(f"/proc/{pid}").exists():
            mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
