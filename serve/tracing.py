"""Traces of answers, opt-in: one span for each stage of the pipeline, in OpenTelemetry's terms, below the caller's own.

Off, every call here does nothing and nothing is imported. Spans carry counts, reasons and ids of answers; never texts
and never people. Parents are given explicitly, since an answer's stages outlive the task that began them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

from serve.config import TracingConfig
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer as OtelTracer

Value = str | int | float | bool
_NOTHING: AbstractContextManager[None] = nullcontext()


class Span(Protocol):
    """An answer on its way."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Measure what is done inside as a stage."""

    def note(self, name: str, value: Value) -> None:
        """Say something about the answer."""

    def end(self, error: BaseException | None = None) -> None:
        """Say that it is over, and what broke it."""


class Tracer(Protocol):
    """Begins spans, and follows traces in from outside."""

    def begin(self, name: str) -> Span:
        """Begin a span below the caller's."""

    def following(self, headers: Mapping[str, str]) -> AbstractContextManager[None]:
        """Let spans begun inside be below the trace that a request's headers name (`traceparent`)."""

    def close(self) -> None:
        """Send what is still to be sent."""


class _NoSpan:
    def stage(self, name: str) -> AbstractContextManager[None]:
        return _NOTHING

    def note(self, name: str, value: Value) -> None:
        pass

    def end(self, error: BaseException | None = None) -> None:
        pass


class _NoTracer:
    def begin(self, name: str) -> Span:
        return NO_SPAN

    def following(self, headers: Mapping[str, str]) -> AbstractContextManager[None]:
        return _NOTHING

    def close(self) -> None:
        pass


NO_SPAN: Span = _NoSpan()
NO_TRACER: Tracer = _NoTracer()


class RecordedSpan:
    """A span that OpenTelemetry records."""

    def __init__(self, tracer: OtelTracer, span: OtelSpan, context: Context) -> None:
        self._tracer = tracer
        self._span = span
        self._context = context

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done inside as a child span; it may span other tasks' work."""
        stage = self._tracer.start_span(f"palate.{name}", context=self._context)
        try:
            yield
        except Exception as error:
            _mark(stage, error)
            raise
        finally:
            stage.end()

    def note(self, name: str, value: Value) -> None:
        """Set an attribute."""
        self._span.set_attribute(f"palate.{name}", value)

    def end(self, error: BaseException | None = None) -> None:
        """End it; what breaks an answer off from outside is no error of it."""
        if isinstance(error, Exception):
            _mark(self._span, error)
        self._span.end()


class RecordingTracer:
    """Records spans with an OpenTelemetry provider."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("palate")

    def begin(self, name: str) -> Span:
        """Begin a span below the current one."""
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 - only where traces are on

        span = self._tracer.start_span(f"palate.{name}")
        return RecordedSpan(self._tracer, span, set_span_in_context(span))

    @contextmanager
    def following(self, headers: Mapping[str, str]) -> Iterator[None]:
        """Follow the W3C trace context."""
        from opentelemetry import context  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        token = context.attach(TraceContextTextMapPropagator().extract(dict(headers)))
        try:
            yield
        finally:
            context.detach(token)

    def close(self) -> None:
        """Flush and stop."""
        self._provider.shutdown()


def open_tracer(config: TracingConfig, model: str) -> Tracer:
    """Make a tracer that exports by OTLP over HTTP, or the one that does nothing.

    Raises:
        ConfigurationError: traces are wanted, and OpenTelemetry is not installed.
    """
    if config.endpoint is None:
        return NO_TRACER
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "tracing.endpoint is set, but OpenTelemetry is missing: pip install 'palate[tracing]'"
        ) from error
    resource = Resource.create({"service.name": "palate", "palate.model": model})
    provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(config.share)))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=config.endpoint)))
    return RecordingTracer(provider)


def _mark(span: OtelSpan, error: Exception) -> None:
    """Name what went wrong; its message may hold what people wrote."""
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

    span.set_status(Status(StatusCode.ERROR, type(error).__name__))
