"""A collector of OpenTelemetry traces for tests: takes OTLP over HTTP and keeps the spans."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from patience import wait_until


class Span:
    def __init__(self, span, service: str):
        self.service, self.name = service, span.name
        self.trace, self.id, self.parent = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
        self.start, self.end = span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9
        self.attributes = {one.key: one.value.string_value or one.value.int_value for one in span.attributes}
        self.events = [event.name for event in span.events]

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Collector:
    def __init__(self):
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.keep(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """For a cluster that shall send its traces here; only requests are traced whose client asks for it."""
        return {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
            "OTEL_BSP_SCHEDULE_DELAY": "500",
        }

    def keep(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [Span(span, names.get("service.name", "")) for span in scope.spans]

    def of(self, trace_id: str) -> list[Span]:
        return sorted((span for span in self.spans if span.trace == trace_id), key=lambda span: span.start)

    def trace(self, trace_id: str, count: int) -> list[Span]:
        """The spans of a trace by their start, once there are so many of them."""
        wait_until(lambda: len(self.of(trace_id)) >= count, f"{count} spans of the trace {trace_id}", every=0.1)
        return self.of(trace_id)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
