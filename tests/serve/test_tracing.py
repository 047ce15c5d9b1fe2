"""Traces: a span for each stage, below the caller's, without texts or people; nothing at all when off."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from serve.api.application import create_app
from serve.config import Config, TracingConfig
from serve.tracing import NO_SPAN, NO_TRACER, RecordingTracer, open_tracer
from tests.serve.api.people import MODEL, Palate, running

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
COMPARE: dict[str, Any] = {"kind": "comparison", "prompt": "hi", "candidates": ["a b c", "there what clear another"]}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@asynccontextmanager
async def traced(folder: Path, exporter: InMemorySpanExporter) -> AsyncIterator[Palate]:
    """Run a server that keeps its spans in memory."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with running(folder) as palate:
        context = replace(palate.context, tracer=RecordingTracer(provider))
        app = create_app(context)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://palate") as client:
            yield Palate(app, client, palate.memory, context)
        context.tracer.close()


def stages_of(spans: tuple[ReadableSpan, ...]) -> tuple[ReadableSpan, list[str]]:
    """Return the whole span and its stages in the order they ended; all are one tree."""
    (whole,) = [span for span in spans if span.name in {"palate.answer", "palate.judge"}]
    stages = [span for span in spans if span is not whole]
    assert whole.context is not None
    assert all(span.parent is not None and span.parent.span_id == whole.context.span_id for span in stages)
    return whole, [span.name for span in stages]


async def test_a_personal_answer_shows_its_stages_below_the_caller_s_span(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    async with traced(tmp_path, exporter) as palate:
        await palate.say(**COMPARE, user="erika-mustermann", value=1)
        body = {"model": MODEL, "messages": [{"role": "user", "content": "my secret"}], "user": "erika-mustermann"}
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        for stream in (False, True):
            exporter.clear()
            answer = await palate.client.post("/v1/chat/completions", json={**body, "stream": stream}, headers=headers)
            assert answer.status_code == 200
            await palate.context.pipeline.shutdown()
            spans = exporter.get_finished_spans()
            whole, stages = stages_of(spans)
            assert stages == ["palate.taste", "palate.route", "palate.plan", "palate.generate", "palate.remember"]
            assert whole.parent is not None
            assert whole.context is not None
            assert (format(whole.context.trace_id, "032x"), format(whole.parent.span_id, "016x")) == (TRACE, PARENT)
            assert whole.attributes is not None
            assert str(whole.attributes["palate.id"]) in answer.text
            assert whole.attributes["palate.reason"] == "on"
            assert whole.attributes["palate.candidates"] == 4
            told = " ".join(span.to_json() for span in spans)
            assert "erika" not in told
            assert "secret" not in told


async def test_base_answers_and_judged_texts_show_theirs(tmp_path: Path, exporter: InMemorySpanExporter) -> None:
    async with traced(tmp_path, exporter) as palate:
        await palate.ask(None)
        whole, stages = stages_of(exporter.get_finished_spans())
        assert stages == ["palate.generate"]
        assert whole.parent is None
        exporter.clear()
        body = {"model": MODEL, "query": "hi", "documents": ["a", "b c"], "user": "ann"}
        assert (await palate.client.post("/v1/rerank", json=body)).status_code == 200
        _, stages = stages_of(exporter.get_finished_spans())
        assert stages == ["palate.taste", "palate.route", "palate.measure", "palate.score"]


async def test_a_failure_is_named_without_its_message(tmp_path: Path, exporter: InMemorySpanExporter) -> None:
    async with traced(tmp_path, exporter) as palate:
        messages = [{"role": "user", "content": "[[fail: 2]]"}]
        await palate.client.post("/v1/chat/completions", json={"model": MODEL, "messages": messages})
        spans = exporter.get_finished_spans()
        assert {span.name for span in spans} == {"palate.answer", "palate.generate"}
        assert {(span.status.status_code, span.status.description) for span in spans} == {
            (StatusCode.ERROR, "GenerationFailed")
        }
        assert not any(span.events for span in spans)


def test_off_is_the_default_and_does_nothing() -> None:
    tracer = open_tracer(Config().tracing, "m")
    assert tracer is NO_TRACER
    assert tracer.begin("answer") is NO_SPAN
    assert NO_SPAN.stage("a") is NO_SPAN.stage("b")
    with tracer.following({"traceparent": "x"}), NO_SPAN.stage("a"):
        NO_SPAN.note("id", 1)
        NO_SPAN.end(ValueError())
    tracer.close()


class Collector(BaseHTTPRequestHandler):
    """Keeps what is posted to it on its server."""

    def do_POST(self) -> None:
        self.server.taken.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture
def collector() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Collector)
    server.taken = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("share", "exported"), [(1.0, True), (0.0, False)])
def test_spans_are_exported_where_the_configuration_says(collector: HTTPServer, share: float, exported: bool) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}/v1/traces"
    tracer = open_tracer(TracingConfig(endpoint=endpoint, share=share), "my-model")
    span = tracer.begin("answer")
    with span.stage("generate"):
        span.note("tokens", 7)
    span.end()
    tracer.close()
    taken = collector.taken  # type: ignore[attr-defined]
    assert [path for path, _ in taken] == ["/v1/traces"] * exported
    if exported:
        for word in (b"palate.answer", b"palate.generate", b"palate.tokens", b"my-model"):
            assert word in taken[0][1]


def test_a_wrong_endpoint_is_refused() -> None:
    for endpoint in ("collector:4318", "http://user@collector/v1/traces"):
        with pytest.raises(ValueError, match="endpoint"):
            Config.model_validate(json.loads(json.dumps({"tracing": {"endpoint": endpoint}})))
