"""A collector of OpenTelemetry traces for tests: takes OTLP over HTTP and keeps the spans."""

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


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

    def keep(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [Span(span, names.get("service.name", "")) for span in scope.spans]

    def trace(self, trace_id: str, count: int, patience_s: float = 20) -> list[Span]:
        """The spans of a trace by their start, once there are so many of them."""
        deadline = time.monotonic() + patience_s
        while len(found := [span for span in self.spans if span.trace == trace_id]) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} spans came: {[span.name for span in found]}"
            time.sleep(0.1)
        return sorted(found, key=lambda span: span.start)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
