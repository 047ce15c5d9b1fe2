"""What the server counts, and how the counts leave several processes.

prometheus-client's multiprocess mode: every replica on a node writes to one folder (`PROMETHEUS_MULTIPROC_DIR`, set at
start), and any ingress renders the sum of all of them, vLLM's own metrics included. Labels never name a person.
"""

from __future__ import annotations

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
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

    def render(self) -> bytes:
        """Render everything in Prometheus' text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
