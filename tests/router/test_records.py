"""What is written down about a request when it is over."""

import asyncio
import json
import logging
import re
import sys

import pytest

from deployments.metering import MemoryMeter
from deployments.router.middleware import RequestContext
from deployments.router.record import RequestRecord
from deployments.telemetry import DURATION, ERRORS, FIRST_TOKEN, OUTPUT_TOKEN, REQUESTS, TOKENS
from deployments.tracing import open_span, start_tracing
from models.catalog import load_catalog
from models.errors import EngineFailed

CANARY = "xylophone-canary-9417"


@pytest.fixture
def meter() -> MemoryMeter:
    return MemoryMeter()


@pytest.fixture
def counting(router, meter):
    return router(meter=meter)


def body(model, text="one two three", **more) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


async def test_a_streamed_chat_is_counted_once_with_its_tokens(counting, meter, chat_model):
    async with counting as http:
        response = await http.post("/v1/chat/completions", json=body(chat_model, stream=True))
    assert b'"usage"' not in response.content
    assert meter.total(REQUESTS, chat_model, "chat", "200") == 1
    assert meter.total(TOKENS, chat_model, "chat", "prompt") == 3
    assert meter.total(TOKENS, chat_model, "chat", "completion") == 3
    assert meter.total(FIRST_TOKEN, chat_model) == meter.total(OUTPUT_TOKEN, chat_model) == 1
    assert meter.total(DURATION, chat_model, "chat") == 1
    assert not [key for key in meter.values if key[0] == ERRORS.name]


async def test_a_whole_answer_has_no_time_to_a_first_token(counting, meter, chat_model):
    async with counting as http:
        await http.post("/v1/chat/completions", json=body(chat_model))
    assert meter.total(TOKENS, chat_model, "chat", "completion") == 3
    assert meter.total(FIRST_TOKEN, chat_model) == 0


async def test_embeddings_count_what_they_read(counting, meter, embedding_model):
    async with counting as http:
        answer = await http.post("/v1/embeddings", json={"model": embedding_model, "input": ["one two", "three"]})
        tokens = [
            len((await http.post("/tokenize", json={"model": embedding_model, "prompt": text})).json()["tokens"])
            for text in ("one two", "three")
        ]
    assert meter.total(REQUESTS, embedding_model, "embeddings", "200") == 3
    assert meter.total(TOKENS, embedding_model, "embeddings", "prompt") == sum(tokens) > 2
    assert answer.json()["usage"]["prompt_tokens"] == sum(tokens)


async def test_an_error_is_counted_by_its_code_and_not_as_a_duration(counting, meter, chat_model):
    async with counting as http:
        await http.post("/v1/chat/completions", json=body(chat_model, "word " * 9000))
        await http.post("/v1/chat/completions", json=body("no-such-model"))
        await http.post("/v1/chat/completions", json=body(chat_model, nonsense=1))
    assert meter.total(ERRORS, chat_model, "chat", "context_length_exceeded") == 1
    assert meter.total(ERRORS, "none", "none", "model_not_found") == 1
    assert meter.total(ERRORS, "none", "none", "unsupported_parameter") == 1
    assert meter.total(DURATION, chat_model, "chat") == 0


async def test_a_stream_that_breaks_is_an_error_though_its_status_was_200(counting, chat, meter, chat_model):
    async def breaks(request):
        yield b'data: {"choices":[{"index":0}]}\n\n'
        raise EngineFailed("It broke.")

    chat.engine.chat = breaks
    async with counting as http:
        await http.post("/v1/chat/completions", json=body(chat_model, stream=True))
    assert meter.total(ERRORS, chat_model, "chat", "engine_failed") == 1
    assert meter.total(REQUESTS, chat_model, "chat", "200") == 1
    assert meter.total(DURATION, chat_model, "chat") == 0


async def test_reading_pages_is_no_request(counting, meter):
    async with counting as http:
        for path in ("/healthz", "/readyz", "/v1/models", "/docs"):
            assert (await http.get(path)).status_code in (200, 503)
    assert not meter.values


async def test_a_client_that_leaves_is_a_499(application, services, fake_chat, chat_model):
    meter = MemoryMeter()
    (layer,) = [layer for layer in application.user_middleware if layer.cls is RequestContext]
    layer.kwargs["meter"] = meter
    fake_chat.seconds_per_token = 0.01
    raw = json.dumps(body(chat_model, "word " * 500, stream=True)).encode()
    left, sent = asyncio.Event(), []
    incoming = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive():
        if incoming:
            return incoming.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        if len(sent) > 3:
            left.set()

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST"}
    scope |= {"path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "query_string": b""}
    await application({**scope, "headers": headers}, receive, send)
    assert meter.total(REQUESTS, chat_model, "chat", "499") == 1


async def test_server_timing_adds_up(counting, chat, chat_model):
    chat.engine.seconds_per_token = 0.02
    async with counting as http:
        response = await http.post("/v1/chat/completions", json=body(chat_model))
    parts = {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"])}
    assert set(parts) == {"router", "queue", "engine"}
    assert parts == {"router": 0, "queue": 0, "engine": pytest.approx(60)}  # three tokens


async def test_no_log_holds_what_a_client_sent(counting, chat, chat_model, embedding_model, caplog):
    caplog.set_level(logging.DEBUG)

    async def breaks(request):
        raise RuntimeError(f"cannot read {request.body['messages']}")
        yield b""

    async with counting as http:
        good = await http.post("/v1/chat/completions", json=body(chat_model, CANARY))
        await http.post("/v1/chat/completions", json=body(chat_model, CANARY, **{CANARY: 1}))
        await http.post("/v1/embeddings", json={"model": embedding_model, "input": [CANARY]})
        await http.post("/v1/embeddings", json={"model": CANARY, "input": "x"})
        chat.engine.chat = breaks
        for stream in (False, True):
            failed = await http.post("/v1/chat/completions", json=body(chat_model, CANARY, stream=stream))
            assert failed.status_code == 500
    assert CANARY in good.text
    written = [str({**record.__dict__, "exc_info": None}) + record.getMessage() for record in caplog.records]
    written += [str(record.exc_info) for record in caplog.records if record.exc_info]
    assert any("RuntimeError" in line for line in written)
    assert [line for line in written if CANARY in line and "httpx" not in line] == []


def test_traces_are_off_and_unimported_without_their_variable(monkeypatch, chat_model):
    monkeypatch.delenv("OTEL_TRACES_EXPORTER", raising=False)
    start_tracing("test")
    assert open_span("x", "server") is None
    record = RequestRecord("r")
    record.begin({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
    assert record.span is None
    assert record.call(load_catalog()[chat_model], "chat").context().trace == {}


def test_an_exporter_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "jaeger")
    with pytest.raises(ValueError, match="jaeger"):
        start_tracing("test")
    assert "jaeger" not in sys.modules
