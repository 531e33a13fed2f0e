"""The record of one request by itself: which times become which metric, header and field of the log.

Whole requests are in test_records.py.
"""

import asyncio
import json
import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest
from local_dispatcher import LocalDispatcher
from patience import until
from virtual_time import now

from deployments.metering import MemoryMeter
from deployments.router.application import create_application
from deployments.router.calling import LOOK_S
from deployments.router.dispatch import ModelState, State
from deployments.router.record import RequestRecord
from deployments.router.services import Services
from deployments.telemetry import (
    DURATION,
    ERRORS,
    FIRST_AUDIO,
    FIRST_TOKEN,
    OUTPUT_TOKEN,
    REAL_TIME_FACTOR,
    REQUESTS,
    TOKENS,
    counter_of,
)
from models.catalog import load_catalog
from models.engines.chat_fake import Engine as FakeChat
from models.errors import EngineFailed, RateLimited
from models.tasks.task import Begins, Settings, Task
from models.tasks.usage import AUDIO_SECONDS, CHARACTERS, COMPLETION_TOKENS, PROMPT_TOKENS, Usage

CANARY = "xylophone-canary-2718"


@pytest.fixture
def meter() -> MemoryMeter:
    return MemoryMeter()


@pytest.fixture
def record(chat_model, monkeypatch) -> RequestRecord:
    """A streamed chat that came 1 s ago, waited 0.1 s, gave its first of 4 tokens at 0.3 s and its last at 0.9 s. The
    clock stands still."""
    monkeypatch.setattr("deployments.router.record.time", SimpleNamespace(perf_counter=lambda: 1000.0))
    record = RequestRecord("r-1", "/v1/chat/completions", arrived=999.0, stream=True)
    record.is_for(load_catalog()[chat_model])
    record.waited_s = 0.1
    call = record.call(load_catalog()[chat_model], "chat")
    call.queue_s, call.engine_s, call.usage = 0.05, 0.75, Usage({PROMPT_TOKENS: 7, COMPLETION_TOKENS: 4})
    call.called, call.first, call.last = (record.arrived + seconds for seconds in (0.1, 0.3, 0.9))
    return record


def line_of(caplog) -> Any:
    """The router's one line of the access log, with its fields as attributes."""
    (line,) = [line for line in caplog.records if getattr(line, "event", None) == "request"]
    return line


def timing_of(header: str) -> dict[str, float]:
    """Milliseconds by name; fails for what is not Server-Timing."""
    assert re.fullmatch(r"\w+;dur=\d+\.\d+(, \w+;dur=\d+\.\d+)*", header), header
    return {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", header)}


def test_each_time_becomes_its_own_metric(record, meter, chat_model):
    record.close(200, meter)
    (first,) = meter.values[FIRST_TOKEN.name, chat_model]
    (between,) = meter.values[OUTPUT_TOKEN.name, chat_model]
    (duration,) = meter.values[DURATION.name, chat_model, "chat"]
    assert first == pytest.approx(0.3)
    assert between == pytest.approx(0.2)  # 0.6 s for the three tokens after the first
    assert duration == pytest.approx(1.0)
    assert meter.total(TOKENS, chat_model, "chat", "prompt") == 7
    assert meter.total(TOKENS, chat_model, "chat", "completion") == 4
    assert len(meter.values) == 6


def test_the_times_of_a_request_are_those_of_the_model_that_it_is_for(record, meter, chat_model, embedding_model):
    """Whichever other models it calls before and after."""
    other = load_catalog()[embedding_model]
    for call in (record.call(other, "embed"), record.call(other, "embed")):
        call.called, call.first, call.last = record.arrived + 0.7, record.arrived + 0.8, record.arrived + 0.8
    record.calls.insert(0, record.calls.pop())
    assert record.primary is record.calls[1]
    record.close(200, meter)
    assert meter.values[FIRST_TOKEN.name, chat_model] == [pytest.approx(0.3)]
    assert meter.values[OUTPUT_TOKEN.name, chat_model] == [pytest.approx(0.2)]


SPEECH = Task("speech", Settings, (), (AUDIO_SECONDS, CHARACTERS), lambda settings: (), Begins.AUDIO)


@pytest.mark.parametrize("stream", [True, False])
def test_sound_is_timed_to_its_first_piece_and_by_its_length(record, meter, chat_model, monkeypatch, stream):
    counters = {count.counter: counter_of(count.counter) for count in SPEECH.counts}
    monkeypatch.setattr("deployments.router.record.COUNTERS", counters)
    (call,) = record.calls
    record.task, record.stream, call.task = SPEECH, stream, SPEECH
    call.usage = Usage({AUDIO_SECONDS: 4.0, CHARACTERS: 12})
    record.close(200, meter)
    first = meter.values.pop((FIRST_AUDIO.name, chat_model), None)
    assert first == ([pytest.approx(0.3)] if stream else None)
    assert meter.values[REAL_TIME_FACTOR.name, chat_model] == [pytest.approx(0.25)]
    assert meter.total(FIRST_TOKEN, chat_model) == meter.total(OUTPUT_TOKEN, chat_model) == 0
    assert meter.total(counters[AUDIO_SECONDS.counter], chat_model, "speech") == 4
    assert meter.total(counters[CHARACTERS.counter], chat_model, "speech") == 12


def test_one_token_has_no_time_between_tokens(record, meter, chat_model):
    record.calls[0].usage = Usage({PROMPT_TOKENS: 7, COMPLETION_TOKENS: 1})
    record.close(200, meter)
    assert meter.total(FIRST_TOKEN, chat_model) == 1
    assert meter.total(OUTPUT_TOKEN, chat_model) == 0


@pytest.mark.parametrize(("status", "code"), [(499, None), (200, "engine_failed"), (429, "queue_full"), (400, None)])
def test_only_a_success_has_a_duration(record, meter, chat_model, status, code):
    record.code = code
    record.close(status, meter)
    assert meter.total(REQUESTS, chat_model, "chat", str(status)) == 1
    assert meter.total(DURATION, chat_model, "chat") == 0
    errors = {key[-1]: values for key, values in meter.values.items() if key[0] == ERRORS.name}
    assert errors == ({code: [1]} if code else {})


def test_a_request_that_never_reached_a_model_counts_under_none(meter):
    RequestRecord("r-1", "/v1/chat/completions").close(400, meter)
    assert dict(meter.values) == {(REQUESTS.name, "none", "none", "400"): [1]}


def test_the_parts_of_server_timing_are_the_whole(record):
    parts = timing_of(record.server_timing().decode())
    assert list(parts) == ["router", "queue", "engine", "wait"]
    assert parts == {"router": 100, "queue": 50, "engine": 750, "wait": 100}


def test_before_the_engine_is_done_server_timing_tells_its_time_so_far(record):
    record.calls[0].engine_s = None
    parts = timing_of(record.server_timing().decode())
    assert parts == {"router": 0, "queue": 50, "engine": 850, "wait": 100}  # since the call, less the queue


def test_clocks_that_disagree_make_no_negative_part(record):
    record.calls[0].engine_s = 30.0
    assert timing_of(record.server_timing().decode())["router"] == 0


def test_the_line_of_log_has_every_time(record, meter, caplog, chat_model):
    caplog.set_level(logging.INFO, "ray.serve.access")
    record.close(200, meter)
    line = line_of(caplog)
    told = {
        "event": "request",
        "request_id": "r-1",
        "path": "/v1/chat/completions",
        "status": 200,
        "model": chat_model,
        "task": "chat",
        "stream": True,
        "prompt_tokens": 7,
        "completion_tokens": 4,
        "wait_ms": 100.0,
        "queue_ms": 50.0,
        "engine_ms": 750.0,
    }
    assert {name: getattr(line, name) for name in told} == told
    assert (line.total_ms, line.router_ms) == (1000, 100)
    assert not hasattr(line, "code")


def test_times_that_are_not_known_are_left_out_of_the_line(meter, caplog):
    caplog.set_level(logging.INFO, "ray.serve.access")
    record = RequestRecord("r-1", "/v1/embeddings")
    record.failed(RateLimited("Full."))
    record.close(429, meter)
    line = line_of(caplog)
    assert (line.code, line.status, line.model, line.task) == ("queue_full", 429, "none", "none")
    assert [name for name in ("queue_ms", "engine_ms", "router_ms") if hasattr(line, name)] == []


def test_metrics_do_not_depend_on_the_log(record, meter, caplog, chat_model):
    caplog.set_level(logging.WARNING, "ray.serve.access")
    record.close(200, meter)
    assert meter.total(REQUESTS, chat_model, "chat", "200") == 1
    assert caplog.records == []


@pytest.mark.parametrize("stream", [False, True])
async def test_the_parts_of_a_real_request_fit_into_its_time(*, router, chat, fake_chat, chat_model, stream):
    """From outside: the client's own clock is the judge. The model comes up before the first look."""
    fake_chat.seconds_per_token = 0.05
    dispatcher = LocalDispatcher({chat_model: chat}, {chat_model: ModelState(State.LOADING)})
    body = {"model": chat_model, "messages": [{"role": "user", "content": "one two"}], "stream": stream}
    loop = asyncio.get_running_loop()
    async with router(dispatcher=dispatcher) as http:
        loop.call_later(0.1, dispatcher.become, chat_model, ModelState(State.READY))
        began = now()
        response = await http.post("/v1/chat/completions", json=body, headers={"prefer": "wait=30"})
        measured = (now() - began) * 1000
    parts = timing_of(response.headers["server-timing"])
    engine = 50 if stream else 100  # until the headers are sent: with the first token, or with all two
    assert parts == {"router": 0, "queue": 0, "engine": pytest.approx(engine), "wait": pytest.approx(LOOK_S * 1000)}
    assert measured == pytest.approx(LOOK_S * 1000 + 100)


async def test_a_page_has_no_server_timing(http):
    assert "server-timing" not in (await http.get("/v1/models")).headers


async def test_an_error_has_server_timing_too(http):
    response = await http.post("/v1/chat/completions", json={})
    assert set(timing_of(response.headers["server-timing"])) == {"router", "queue", "engine"}


async def test_a_request_cancelled_before_its_answer_is_a_499(*, chat, fake_chat, chat_model, meter, caplog):
    caplog.set_level(logging.INFO, "ray.serve.access")
    fake_chat.seconds_per_token = 5
    application = create_application(Services(load_catalog(), LocalDispatcher({chat_model: chat}), meter))
    raw = json.dumps({"model": chat_model, "messages": [{"role": "user", "content": CANARY}]}).encode()
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST"}
    scope |= {"path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "query_string": b""}
    scope["headers"] = [(b"content-type", b"application/json"), (b"x-request-id", b"r-9")]

    async def receive():
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message):
        raise AssertionError("nothing is there to send")

    request = asyncio.create_task(application(scope, receive, send))
    await until(lambda: fake_chat.tokens_made, "the first token")
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert meter.total(REQUESTS, chat_model, "chat", "499") == 1
    assert not [key for key in meter.values if key[0] in (DURATION.name, ERRORS.name)]
    line = line_of(caplog)
    assert (line.status, line.request_id, line.model) == (499, "r-9", chat_model)


class Breaking(FakeChat):
    """Sends one event, then raises an error with the client's words in it."""

    def __init__(self, model: str, error: type[Exception]):
        super().__init__(model, 2048)
        self.error = error

    async def chat(self, request):
        async for item in super().chat(request):
            yield item
            try:
                raise ValueError(str(request.body))
            except ValueError as cause:
                raise self.error(f"broke on {request.body}") from cause


@pytest.mark.parametrize(("error", "code"), [(RuntimeError, "internal_error"), (EngineFailed, "engine_failed")])
async def test_a_stream_that_breaks_is_logged_with_its_code_and_without_words(
    *, router, chat, chat_model, meter, caplog, error, code
):
    caplog.set_level(logging.DEBUG)
    body = {"model": chat_model, "messages": [{"role": "user", "content": f"{CANARY} b c"}], "stream": True}
    chat.chat = Breaking(chat_model, error).chat
    async with router(meter=meter) as http:
        response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    assert CANARY in response.text  # it was in the answer: the test can see it
    line = line_of(caplog)
    assert (line.status, line.code) == (200, code)
    assert meter.total(ERRORS, chat_model, "chat", code) == 1
    formatter = logging.Formatter()
    written = [formatter.format(one) + str(one.__dict__) for one in caplog.records]
    assert len(written) >= 1
    assert [one for one in written if CANARY in one] == []


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"temperature": CANARY}, 400),
        ({"response_format": {"type": CANARY}}, 400),
        ({"messages": [{"role": CANARY, "content": "a"}]}, 400),
        ({"messages": CANARY}, 400),
        ({CANARY: CANARY}, 400),
        ({"model": CANARY}, 404),
    ],
)
async def test_a_bad_request_leaves_none_of_its_words_in_a_log(*, http, chat_model, caplog, wrong, status):
    caplog.set_level(logging.DEBUG)
    body = {"model": chat_model, "messages": [{"role": "user", "content": CANARY}], **wrong}
    assert (await http.post("/v1/chat/completions", json=body)).status_code == status
    assert line_of(caplog).status == status
    formatter = logging.Formatter()
    assert [one for one in caplog.records if CANARY in formatter.format(one) + str(one.__dict__)] == []


async def test_a_body_that_is_no_json_leaves_none_of_its_words_in_a_log(http, caplog):
    caplog.set_level(logging.DEBUG)
    raw = f'{{"model": "{CANARY}", {CANARY}'.encode()
    response = await http.post("/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400
    formatter = logging.Formatter()
    assert [one for one in caplog.records if CANARY in formatter.format(one) + str(one.__dict__)] == []
