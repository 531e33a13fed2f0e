"""Spans of a request from the router through the queue to the engine, all in this process."""

import gzip
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from patience import patience

from deployments.board import MemoryBoard
from deployments.metering import MemoryMeter
from deployments.router.application import create_application
from deployments.router.dispatch import ModelState, State
from deployments.router.serve_dispatcher import ServeDispatcher
from deployments.router.services import Services
from deployments.servers.calls import CallContext, Refused
from deployments.tracing import _Tracing, close_span, open_span, start_tracing, traceparent_of
from models.catalog import load_catalog
from models.tasks.chat import GenerationRequest

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CANARY = "xylophone-canary-1414"


class Handle:
    """What Serve's handle does, without Serve: runs the replica's method in this process."""

    def __init__(self, server, method):
        self.method = getattr(server, method)

    def remote(self, *args):
        return Response(self.method(*args))


class Response:
    def __init__(self, work):
        self.work = work

    def __await__(self):
        return self.work.__await__()

    async def __anext__(self):
        item = await anext(self.work)
        if isinstance(item, Refused):
            assert await anext(self.work, None) is None  # a replica goes on by itself
        return item

    def cancel(self):
        pass


class LocalServe(ServeDispatcher):
    """The router's real dispatcher, over a replica in this process."""

    def __init__(self, model, server):
        super().__init__(1.0, MemoryBoard(), MemoryMeter())
        self._states = {model: ModelState(State.READY, replicas=1)}
        self.server = server
        self.contexts: list[CallContext] = []

    def _handle(self, model, method, stream, large):
        handle = Handle(self.server, method)
        work = handle.method

        def keeping(context, *args):
            self.contexts.append(context)
            return work(context, *args)

        handle.method = keeping
        return handle


@pytest.fixture
def untraced(monkeypatch):
    """No process before or after traces because of a test."""
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_Tracing, "tracer", None)


def processor_of_this_process():
    tracer: Any = _Tracing.tracer
    assert tracer is not None
    return tracer.span_processor


@pytest.fixture
def spans(monkeypatch, untraced, server):
    """Traces this process, whose replica has started. Call it for the spans that have ended, by their start."""
    exporter = InMemorySpanExporter()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setattr(trace_exporter, "OTLPSpanExporter", lambda: exporter)
    start_tracing("medley-test")
    processor = processor_of_this_process()

    def ended():
        processor.force_flush()
        return sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)

    yield ended
    processor.shutdown()


@pytest.fixture
def server(chat):
    chat.engine.context_tokens = 100
    return chat


@pytest.fixture
def dispatcher(chat_model, server) -> LocalServe:
    return LocalServe(chat_model, server)


@pytest.fixture
async def http(dispatcher):
    application = create_application(Services(load_catalog(), dispatcher))
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://medley", timeout=30) as client:
        yield client


async def ask(http, model, text="one two", /, sampled="01", **more) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-{sampled}", "x-request-id": "r-7"}
    return await http.post("/v1/chat/completions", json=body, headers=headers)


def by_name(spans) -> dict:
    named = {span.name: span for span in spans}
    assert len(named) == len(spans), [span.name for span in spans]
    return named


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_four_spans_each_below_the_one_before(http, spans, chat_model, stream):
    assert (await ask(http, chat_model, stream=stream)).status_code == 200
    named = by_name(spans())
    request, call = named["POST /v1/chat/completions"], named[f"call {chat_model}"]
    queue, engine = named["queue"], named["engine chat"]
    assert len(named) == 4
    assert {format_trace_id(span.context.trace_id) for span in named.values()} == {TRACE}
    assert format_span_id(request.parent.span_id) == PARENT
    assert call.parent.span_id == request.context.span_id
    assert queue.parent.span_id == engine.parent.span_id == call.context.span_id
    kinds = [span.kind for span in (request, call, queue, engine)]
    assert kinds == [SpanKind.SERVER, SpanKind.CLIENT, SpanKind.INTERNAL, SpanKind.SERVER]
    # One after the other and none longer than the one around it; the queue and the engine meet.
    assert request.start_time <= call.start_time <= queue.end_time == engine.start_time
    assert engine.start_time <= engine.end_time <= call.end_time + 1_000_000 <= request.end_time + 2_000_000


@pytest.mark.parametrize("stream", [False, True])
async def test_spans_tell_the_model_the_tokens_and_the_status(http, spans, chat_model, stream):
    await ask(http, chat_model, stream=stream)
    named = by_name(spans())
    attributes = dict(named["POST /v1/chat/completions"].attributes)
    assert attributes["http.response.status_code"] == 200
    assert attributes["url.path"] == "/v1/chat/completions"
    assert attributes["medley.request_id"] == "r-7"
    assert "error.type" not in attributes
    for span in (named["POST /v1/chat/completions"], named["engine chat"]):
        assert span.attributes["gen_ai.request.model"] == chat_model
        assert span.attributes["gen_ai.usage.input_tokens"] == 2
        assert span.attributes["gen_ai.usage.output_tokens"] == 2
    assert named["engine chat"].attributes["medley.outcome"] == "ok"
    assert [event.name for event in named["engine chat"].events] == ["first item"]


async def test_no_span_holds_what_a_client_sent(http, spans, server, chat_model):
    async def breaks(request):
        raise RuntimeError(str(request.body))
        yield b""

    await ask(http, chat_model, CANARY)
    await ask(http, chat_model, CANARY, temperature=CANARY)
    server.engine.chat = breaks
    assert (await ask(http, chat_model, CANARY)).status_code == 500
    told = [span.to_json() for span in spans()]
    assert len(told) >= 8
    assert [one for one in told if CANARY in one] == []


async def test_the_context_that_travels_is_the_calls_own(http, spans, dispatcher, chat_model):
    await ask(http, chat_model)
    (context,) = dispatcher.contexts
    call = by_name(spans())[f"call {chat_model}"]
    assert context.trace == {"traceparent": f"00-{TRACE}-{format_span_id(call.context.span_id)}-01"}
    assert context.request_id == "r-7"


async def test_a_request_without_a_context_begins_a_trace(http, spans, chat_model):
    body = {"model": chat_model, "messages": [{"role": "user", "content": "one"}]}
    for headers in ({}, {"traceparent": "nonsense"}):
        await http.post("/v1/chat/completions", json=body, headers=headers)
    roots = [span for span in spans() if span.parent is None]
    assert [span.name for span in roots] == ["POST /v1/chat/completions"] * 2
    assert len({span.context.trace_id for span in roots}) == 2


async def test_a_client_that_samples_its_trace_out_is_not_traced(http, spans, dispatcher, chat_model):
    assert (await ask(http, chat_model, sampled="00")).status_code == 200
    assert spans() == []
    # The replica is told so too: it has to decide as the router did.
    assert dispatcher.contexts[0].trace["traceparent"].endswith("-00")


async def test_reading_pages_is_not_traced(http, spans):
    for path in ("/healthz", "/readyz", "/v1/models"):
        await http.get(path)
    assert spans() == []


@pytest.mark.parametrize(
    ("wrong", "status", "code", "names"),
    [
        ({"nonsense": 1}, 400, "unsupported_parameter", 1),
        ({"model": "nothing"}, 404, "model_not_found", 1),
        ({"model": "qwen2.5-7b-instruct"}, 503, "model_not_deployed", 1),
        ({"messages": [{"role": "user", "content": "word " * 101}]}, 400, "context_length_exceeded", 4),
    ],
)
async def test_an_error_is_told_by_its_code(*, http, spans, chat_model, wrong, status, code, names):
    assert (await ask(http, chat_model, **wrong)).status_code == status
    ended = spans()
    assert len(ended) == names
    failed = [span for span in ended if span.name.startswith(("POST", "engine"))]
    assert [span.attributes["error.type"] for span in failed] == [code] * len(failed)
    assert {span.status.status_code for span in failed} == {StatusCode.ERROR}
    assert failed[0].attributes["http.response.status_code"] == status


async def test_an_error_in_a_stream_is_told_though_the_status_was_200(http, spans, server, chat_model):
    async def breaks(request):
        yield b'data: {"choices":[{"index":0}]}\n\n'
        raise RuntimeError

    server.engine.chat = breaks
    assert (await ask(http, chat_model, stream=True)).status_code == 200
    named = by_name(spans())
    request, engine = named["POST /v1/chat/completions"], named["engine chat"]
    assert (request.attributes["http.response.status_code"], request.attributes["error.type"]) == (200, "engine_failed")
    assert engine.attributes["medley.outcome"] == "engine_failed"
    assert f"call {chat_model}" in named


async def test_a_caller_that_leaves_is_no_error(spans, server):
    context = CallContext("r-1", time.time() - 0.5, {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    server.engine.chat = _endless
    stream = server.serve_stream(context, "chat", GenerationRequest({"messages": [], "stream": True}, "r-1"))
    await anext(stream)
    await stream.aclose()
    queue, engine = spans()
    assert queue.start_time / 1e9 == pytest.approx(context.sent, abs=1e-5)
    assert queue.end_time == engine.start_time >= queue.start_time + 499_000_000
    assert engine.attributes["medley.outcome"] == "cancelled"
    assert engine.status.status_code is StatusCode.UNSET
    assert "error.type" not in engine.attributes


async def _endless(request):
    while True:
        yield b"1"


def test_a_span_has_the_times_it_was_given(spans):
    close_span(open_span("x", "internal", start=1000.5), end=1001.25, a__b="c", nothing=None)
    (span,) = spans()
    assert (span.start_time, span.end_time) == (1000_500_000_000, 1001_250_000_000)
    assert dict(span.attributes) == {"a.b": "c"}


@pytest.mark.parametrize("exporter", ["jaeger", "console", "otlp,console"])
def test_another_exporter_is_refused_in_words(monkeypatch, untraced, exporter):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", exporter)
    with pytest.raises(ValueError, match=f"OTEL_TRACES_EXPORTER is '{exporter}'; Medley has otlp and none"):
        start_tracing("medley-test")
    assert open_span("x", "server") is None


@pytest.mark.parametrize("exporter", [None, "", " ", "none", " none "])
async def test_nothing_is_traced_unless_it_is_asked_for(
    *, http, monkeypatch, untraced, exporter, dispatcher, chat_model
):
    if exporter is not None:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", exporter)
    start_tracing("medley-test")
    assert (await ask(http, chat_model)).status_code == 200
    assert dispatcher.contexts[0].trace == {}
    assert open_span("x", "server") is None
    assert traceparent_of(None) == {}


def test_nothing_is_imported_unless_it_is_asked_for():
    """In a process of its own: others have imported OpenTelemetry here."""
    program = """
import sys
from deployments.metering import NoMeter
from deployments.router import application, record
from deployments.servers import calls
from deployments.tracing import start_tracing
from models.catalog import load_catalog

start_tracing("medley-test")
one = record.RequestRecord("r-1")
one.begin({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
with one.call(load_catalog()["smollm2-135m-instruct"], "chat") as call:
    assert call.context().trace == {}
one.close(200, NoMeter())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=patience(60),
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path)},
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr[-2000:]


@pytest.fixture
def collector():
    """A collector of traces on this machine: what it was sent, and its address."""
    got: list[tuple[str, ExportTraceServiceRequest]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            got.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format, *args):
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield got, f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()
    thread.join()


async def test_spans_reach_a_collector_under_the_services_name(*, monkeypatch, untraced, collector, http, chat_model):
    got, endpoint = collector
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    start_tracing("medley-router")
    await ask(http, chat_model)
    processor_of_this_process().shutdown()  # sends what is left
    resources = [resource for _, sent in got for resource in sent.resource_spans]
    names = {attribute.value.string_value for one in resources for attribute in one.resource.attributes}
    assert "medley-router" in names
    found = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert len(found) == 4
    assert {span.trace_id.hex() for span in found} == {TRACE}
    assert {path for path, _ in got} == {"/v1/traces"}
