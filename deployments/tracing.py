"""OpenTelemetry traces from the edge through router and queue to the engine.

OpenTelemetry's standard environment variables configure it, in every process: OTEL_TRACES_EXPORTER=otlp,
OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER and the others. Without OTEL_TRACES_EXPORTER nothing is imported and
nothing is traced. See https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer


class _Tracing:
    """The tracer of this process, if it traces. start_tracing sets it."""

    tracer: Tracer | None = None


def start_tracing(service: str) -> None:
    """Start tracing, if the environment asks for it.

    Args:
        service: the `service.name` of this process's spans.

    Raises:
        ValueError: OTEL_TRACES_EXPORTER names an unknown exporter.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "none").strip() or "none"
    if exporter == "none":
        return
    if exporter != "otlp":
        raise ValueError(f"OTEL_TRACES_EXPORTER is {exporter!r}; Medley has otlp and none.")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Our own provider, not the global one, so that libraries in this process do not add their spans.
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _Tracing.tracer = provider.get_tracer("medley")


def open_span(name: str, kind: str, parent: Any = None, start: float | None = None) -> Span | None:
    """Begin a span; None if this process does not trace.

    Args:
        kind: "server", "client" or "internal".
        parent: the span above it, or the headers of a request in W3C's form.
        start: Unix time; None stands for now.
    """
    if (tracer := _Tracing.tracer) is None:
        return None
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if isinstance(parent, Mapping):
        context = TraceContextTextMapPropagator().extract(parent)
    else:
        context = set_span_in_context(parent) if parent is not None else None
    return tracer.start_span(name, context, SpanKind[kind.upper()], start_time=_nanoseconds(start))


def close_span(span: Span | None, end: float | None = None, error: str | None = None, **attributes: Any) -> None:
    """End a span with these attributes, at a Unix time, or now for None. `error` is an error's code."""
    if span is None:
        return
    from opentelemetry.trace import Status, StatusCode

    span.set_attributes({name.replace("__", "."): value for name, value in attributes.items() if value is not None})
    if error:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))
    span.end(_nanoseconds(end))


def traceparent_of(span: Span | None) -> dict[str, str]:
    """The W3C trace context headers that pass a span's context to another process."""
    if span is None:
        return {}
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, set_span_in_context(span))
    return headers


def _nanoseconds(time_s: float | None) -> int | None:
    return None if time_s is None else int(time_s * 1e9)
