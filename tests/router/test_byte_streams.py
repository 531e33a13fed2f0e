"""Answers in bytes that come piece by piece, such as speech: their errors, and how they are measured."""

import asyncio
import logging
from types import SimpleNamespace

import pytest
from fastapi import Request
from local_dispatcher import LocalDispatcher
from patience import until
from replicas import CHAT, chat_server

from deployments.metering import MemoryMeter
from deployments.router import calling
from deployments.router.application import create_application
from deployments.router.record import RequestRecord
from deployments.router.services import Services
from deployments.router.streaming import CutOff, open_byte_stream
from deployments.telemetry import ERRORS, FIRST_AUDIO, REAL_TIME_FACTOR, REQUESTS
from models.catalog import load_catalog
from models.errors import EngineFailed, InvalidRequest
from models.tasks import chat
from models.tasks.chat import GenerationRequest
from models.tasks.task import Begins, Settings, Task
from models.tasks.usage import AUDIO_SECONDS, Usage


class Speaker:
    """An engine that says three pieces, or what a test has it say; `closed` when nobody listens any more."""

    pieces = (b"RIFF", b"one", b"two")
    closed = False

    async def chat(self, request):
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                await asyncio.sleep(0)
            await asyncio.sleep(0 if len(self.pieces) < 10 else 60)
        finally:
            self.closed = True


@pytest.fixture
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture
def meter() -> MemoryMeter:
    return MemoryMeter()


@pytest.fixture
async def application(speaker, meter):
    server = await chat_server(speaker)
    # Its real handler looks for counts of tokens in what passes.
    server.chat = speaker.chat
    application = create_application(Services(load_catalog(), LocalDispatcher({CHAT: server}), meter))

    @application.post("/speak")
    async def speak(request: Request):
        spec = load_catalog()[CHAT]
        pieces = calling.stream(request, spec, chat.CHAT, GenerationRequest({}, "r"))
        return await open_byte_stream(request, pieces, "audio/wav")

    return application


async def test_the_pieces_come_as_they_are_with_their_type(http):
    response = await http.post("/speak")
    assert (response.status_code, response.headers["content-type"]) == (200, "audio/wav")
    assert response.content == b"RIFFonetwo"
    assert "content-length" not in response.headers


async def test_a_refusal_before_the_first_piece_keeps_its_status(http, speaker, assert_error):
    speaker.pieces = (InvalidRequest("There is no such voice.", "voice"),)
    assert assert_error(await http.post("/speak"), 400)["param"] == "voice"


async def test_an_answer_without_a_piece_is_empty(http, speaker):
    speaker.pieces = ()
    response = await http.post("/speak")
    assert (response.status_code, response.content) == (200, b"")


async def sent_by(application, leaves_after=None):
    """What an application sends to one client, until it ends, breaks or the client leaves."""
    messages, left = [], asyncio.Event()
    incoming = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        if incoming:
            return incoming.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        messages.append(message)
        if leaves_after is not None and len(messages) > leaves_after:
            left.set()
        await asyncio.sleep(0)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/speak",
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
    }
    try:
        await application(scope | {"asgi": {"version": "3.0", "spec_version": "2.3"}}, receive, send)
    except CutOff:
        messages.append("cut off")
    return messages


async def test_an_error_on_the_way_cuts_the_connection_and_is_on_record(application, speaker, meter, caplog):
    caplog.set_level(logging.INFO, "ray.serve.access")
    speaker.pieces = (b"RIFF", b"one", EngineFailed("It broke."))
    *messages, end = await sent_by(application)
    assert b"".join(message.get("body", b"") for message in messages) == b"RIFFone"
    assert end == "cut off"
    assert all(message.get("more_body", True) for message in messages)
    assert meter.total(ERRORS, CHAT, "chat", "engine_failed") == 1
    assert meter.total(REQUESTS, CHAT, "chat", "200") == 1  # and not 499: the client has not left
    assert "unexpectedly" not in caplog.text


async def test_a_listener_that_leaves_ends_the_work(application, speaker, meter):
    speaker.pieces = (b"RIFF",) * 100
    await sent_by(application, leaves_after=3)
    await until(lambda: speaker.closed, "the engine stops")
    assert meter.total(REQUESTS, CHAT, "chat", "499") == 1


SPEECH = Task("speech", Settings, (), (AUDIO_SECONDS,), lambda settings: (), begins=Begins.AUDIO)


@pytest.mark.parametrize(("stream", "first"), [(True, 1), (False, 0)])
def test_the_first_sound_and_the_time_for_a_second_of_it_are_measured(meter, monkeypatch, stream, first):
    monkeypatch.setattr("deployments.telemetry.COUNTERS", {})
    monkeypatch.setattr("deployments.router.record.COUNTERS", {AUDIO_SECONDS.counter: REAL_TIME_FACTOR})
    monkeypatch.setattr("deployments.router.record.clock", lambda: 1004.0)
    written = []
    monkeypatch.setattr(meter, "write", lambda metric, value, *labels: written.append((metric, value, labels)))
    spec = SimpleNamespace(id="talker", task=SPEECH)
    record = RequestRecord("r-1", "/v1/audio/speech", arrived=1000.0, stream=stream)
    record.is_for(spec)
    with record.call(spec, "speak") as call:
        call.queue_s, call.engine_s, call.usage = 0.1, 3.0, Usage({AUDIO_SECONDS: 8})
        call.first = 1000.5
    record.close(200, meter)
    assert [(value, labels) for metric, value, labels in written if metric is FIRST_AUDIO] == [
        (0.5, ("talker",))
    ] * first
    assert (REAL_TIME_FACTOR, 0.5, ("talker",)) in written
