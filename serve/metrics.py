"""What the server counts, and how the counts leave several processes.

prometheus-client's multiprocess mode: every replica on a node writes to one folder (`PROMETHEUS_MULTIPROC_DIR`, set at
start), and any ingress, or `palate metrics serve`, renders the sum of all of them, vLLM's own metrics included. Labels
never name a person. `docs/metrics.md` is generated from the descriptions here (`palate metrics docs`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from router.selection import Reason
from router.types import ARM_KINDS
from user_store.types import FeedbackKind

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
STAGE_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
WAIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
GAIN_BUCKETS = (-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
SHARE_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
PREFIXES = ("palate_", "vllm:")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

ANSWER_REASONS = ("on", "off", "no_user", "no_artifact", "no_feedback", "degraded")
TOKEN_FATES = ("served", "spent")
THUMBS = ("up", "down")
NO_PROTOTYPE = "none"
STORE_CALLS = (
    "get_state",
    "append_event",
    "put_posterior",
    "announce_completion",
    "put_completion",
    "get_completion",
)
EXPERIMENT_ARMS = ("candidate", "control")
NO_EXPERIMENT = "none"
REFUSALS = ("requests", "tokens", "user", "queue")
CHAT_PATH = "/v1/chat/completions"
FEEDBACK_PATH = "/v1/feedback"


class Metrics:
    """The server's own metrics, on one registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._declare_requests()
        self._declare_engine()
        self._declare_personalization()
        self._declare_feedback()
        self._declare_store()
        self._touch()

    def _declare_requests(self) -> None:
        self.info = self._gauge(
            "palate_info", "1; the labels say what is running.", ("version", "model", "engine"), how="livemax"
        )
        # Gauges that only some processes know have a label: without one, every process would say 0.
        self.ready = self._gauge(
            "palate_ready", "1 while an engine can answer, as the ingress replicas see it.", ("model",), how="livemin"
        )
        self.requests = self._counter("palate_requests", "Requests by path and status.", ("path", "status"))
        self.request_seconds = self._histogram(
            "palate_request_seconds",
            "Time from the first byte in to the last byte out.",
            LATENCY_BUCKETS_S,
            ("path",),
        )
        self.first_byte_seconds = self._histogram(
            "palate_first_byte_seconds",
            "Time to the answer's first byte; of a stream, to its first token.",
            LATENCY_BUCKETS_S,
            ("path",),
        )
        self.inter_token_seconds = self._histogram(
            "palate_inter_token_seconds", "Time between two events of a streamed answer.", WAIT_BUCKETS_S
        )
        self.requests_running = self._gauge("palate_requests_running", "Requests in flight.")
        self.refusals = self._counter(
            "palate_refusals",
            "Requests answered with 429: over a key's limit of requests or tokens, a person's, or for a full queue.",
            ("reason",),
        )
        self.limit_failures = self._counter(
            "palate_limit_failures", "Requests that were let through because limits could not be read."
        )

    def _declare_engine(self) -> None:
        self.engine_starts = self._counter("palate_engine_starts", "Engine replicas started, restarts included.")
        self.generations_running = self._gauge("palate_generations_running", "Generations in the engines.")
        self.queue_seconds = self._histogram(
            "palate_queue_seconds",
            "Time from the ingress to an engine replica's start on a request; across nodes as exact as their clocks.",
            WAIT_BUCKETS_S,
        )
        self.prompt_tokens = self._counter("palate_prompt_tokens", "Tokens of prompts, once a request.")
        self.cached_prompt_tokens = self._counter(
            "palate_cached_prompt_tokens", "Tokens of prompts that the engine's prefix cache already had."
        )
        self.completion_tokens = self._counter("palate_completion_tokens", "Tokens of served answers.")

    def _declare_personalization(self) -> None:
        self.artifact = self._gauge(
            "palate_artifact_info",
            "1 for the artifact in service; `damaged` for one that cannot be used.",
            ("version",),
            how="livemax",
        )
        self.artifact_refusals = self._counter(
            "palate_artifact_refusals", "Published artifacts that could not be used; the one before serves on."
        )
        self.experiment = self._gauge(
            "palate_experiment_share",
            "Share of people on a running experiment's candidate.",
            ("experiment", "version"),
            how="livemax",
        )
        self.experiment_answers = self._counter(
            "palate_experiment_answers", "Answers to one person each, by arm of the experiment.", ("experiment", "arm")
        )
        self.experiment_thumbs = self._counter(
            "palate_experiment_thumbs",
            "Thumbs about answers, by arm of the experiment.",
            ("experiment", "arm", "value"),
        )
        self.answers = self._counter(
            "palate_answers", "Chat answers by whether and why they were personalized.", ("reason",)
        )
        self.certainty = self._histogram(
            "palate_certainty", "How sure the taste is that an answer was made with, 0 to 1.", SHARE_BUCKETS
        )
        self.candidates = self._counter("palate_candidates", "Candidates generated.")
        self.candidate_tokens = self._counter(
            "palate_candidate_tokens", "Tokens of candidates: served, or spent on candidates that were not.", ("fate",)
        )
        self.halving_saved_tokens = self._counter(
            "palate_halving_saved_tokens",
            "Tokens that candidates stopped early fell short of the served answer's length: an estimate of the saving.",
        )
        self.choices = self._counter("palate_choices", "Choices among candidates by why the winner won.", ("reason",))
        self.served_arms = self._counter(
            "palate_served_arms", "Personalized answers by the kind of candidate that was served.", ("arm",)
        )
        self.routing_seconds = self._histogram(
            "palate_routing_seconds",
            "Time from the parsed request to the plan, the store's read included.",
            STAGE_BUCKETS_S,
        )
        self.choosing_seconds = self._histogram(
            "palate_choosing_seconds", "Time spent on measuring, scoring and choosing candidates.", STAGE_BUCKETS_S
        )
        self.reward_gain = self._histogram(
            "palate_reward_gain_logits",
            "Expected reward of the served answer over the base answer, by the person's nearest prototype.",
            GAIN_BUCKETS,
            ("prototype",),
        )

    def _declare_feedback(self) -> None:
        self.feedback = self._counter(
            "palate_feedback", "Feedback taken, by kind; duplicates apart.", ("kind", "result")
        )
        self.thumbs = self._counter(
            "palate_thumbs",
            "Thumbs about answers, by the kind of candidate that had been served and the person's nearest prototype.",
            ("value", "arm", "prototype"),
        )
        self.posterior_updates = self._counter(
            "palate_posterior_updates",
            "Posteriors brought up to date at once (`now`), or left to the next event or request (`later`).",
            ("when",),
        )
        self.learning_seconds = self._histogram(
            "palate_learning_seconds", "Time to bring a posterior up to date after feedback.", STAGE_BUCKETS_S
        )
        self.spool_waiting = self._gauge("palate_spool_waiting", "Events that wait for a store that is away.")

    def _declare_store(self) -> None:
        self.store_seconds = self._histogram(
            "palate_store_seconds", "Time of the store's calls, failures included.", STAGE_BUCKETS_S, ("call",)
        )
        self.store_failures = self._counter(
            "palate_store_failures", "Requests that the store could not serve.", ("path",)
        )
        self.store_up = self._gauge(
            "palate_store_up", "1 if the store's last call was answered.", ("store",), how="livemin"
        )
        self.index_people = self._gauge("palate_index_people", "People in the latent index.", how="livemax")
        self.index_build_seconds = self._histogram(
            "palate_index_build_seconds", "Time to build the latent index anew from the store.", LATENCY_BUCKETS_S
        )

    def render(self) -> bytes:
        """Render everything in Prometheus' text format."""
        folder = os.environ.get(FOLDER_VARIABLE)
        return generate_latest(self._registry) if folder is None else render_folder(folder)

    def begin_experiment(self, name: str) -> None:
        """Let an experiment's series be there before anything is counted."""
        for arm in EXPERIMENT_ARMS:
            self.experiment_answers.labels(name, arm)
            for thumb in THUMBS:
                self.experiment_thumbs.labels(name, arm, thumb)

    def declared(self) -> list[MetricWrapperBase]:
        """List the metrics in the order of their declaration."""
        return [value for value in vars(self).values() if isinstance(value, MetricWrapperBase)]

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = (), how: str = "livesum") -> Gauge:
        return Gauge(name, text, labels, multiprocess_mode=how, registry=self._registry)  # type: ignore[arg-type]

    def _histogram(self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)

    def _touch(self) -> None:
        """Let every series with known labels be there from the start: a rate needs a first value to rise from."""
        for path in (CHAT_PATH, FEEDBACK_PATH):
            for status in (200, 429, 500, 503):
                self.requests.labels(path, status)
            self.request_seconds.labels(path)
            self.first_byte_seconds.labels(path)
            self.store_failures.labels(path)
        for counter, values in (
            (self.refusals, REFUSALS),
            (self.answers, ANSWER_REASONS),
            (self.candidate_tokens, TOKEN_FATES),
            (self.choices, Reason),
            (self.served_arms, ARM_KINDS),
            (self.posterior_updates, ("now", "later")),
        ):
            for value in values:
                counter.labels(str(value))
        for kind in FeedbackKind:
            for result in ("new", "duplicate"):
                self.feedback.labels(str(kind), result)
        for thumb in THUMBS:
            for arm in ARM_KINDS:
                self.thumbs.labels(thumb, arm, NO_PROTOTYPE)
        for call in STORE_CALLS:
            self.store_seconds.labels(call)
        self.experiment.labels(NO_EXPERIMENT, NO_EXPERIMENT)
        self.begin_experiment(NO_EXPERIMENT)
        self.reward_gain.labels(NO_PROTOTYPE)


def render_folder(folder: str) -> bytes:
    """Render the sum of all processes that write to a folder."""
    _forget_dead_processes(folder)
    registry = CollectorRegistry()
    registry.register(_Ours(MultiProcessCollector(None, folder)))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def reference() -> str:
    """Render the reference page (Markdown) from the declarations themselves."""
    lines = [
        "# Metrics",
        "",
        "`GET /metrics` sums all processes of a node, vLLM's own `vllm:…` metrics included; on a cluster every pod's",
        "exporter (`palate metrics serve`) does. Labels never name a person. This page is generated by",
        "`palate metrics docs`.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for metric in Metrics().declared():
        name = metric._name + ("_total" if metric._type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        lines.append(f"| `{name}` | {metric._type} | {labels} | {metric._documentation} |")
    return "\n".join(lines) + "\n"


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
