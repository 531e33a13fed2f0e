"""A client that leaves stops the model. Driven as raw ASGI, as a server drives the application; on virtual time."""

import asyncio
import json

import pytest
from fastapi import Request
from patience import until
from virtual_time import now

from deployments.router.record import RequestRecord
from deployments.router.streaming import EVENTS, PieceByPiece, open_byte_stream, open_event_stream

WORDS = 500


class Connection:
    """One request of a client that reads until `leave` is set."""

    def __init__(self, application, path: str, body: dict):
        self.application = application
        raw = json.dumps(body).encode()
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())],
        }
        self.incoming = [{"type": "http.request", "body": raw, "more_body": False}]
        self.sent: list[dict] = []
        self.leave = asyncio.Event()

    async def receive(self) -> dict:
        if self.incoming:
            return self.incoming.pop()
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict) -> None:
        self.sent.append(message)

    async def run(self) -> None:
        await self.application(self.scope, self.receive, self.send)


@pytest.fixture
def long_stream(application, chat_model, fake_chat) -> Connection:
    fake_chat.seconds_per_token = 0.01
    messages = [{"role": "user", "content": "word " * WORDS}]
    return Connection(application, "/v1/chat/completions", {"model": chat_model, "messages": messages, "stream": True})


async def started(connection: Connection, messages: int) -> asyncio.Task:
    """The request in the background, once it has sent so many messages."""
    task = asyncio.create_task(connection.run())
    await until(lambda: len(connection.sent) >= messages, f"{messages} messages", every=0.001)
    return task


async def assert_it_stays_stopped(fake_chat, made: int) -> None:
    """Time for ten tokens more: none of them is made."""
    await asyncio.sleep(10 * max(fake_chat.seconds_per_token, 0.01))
    assert fake_chat.tokens_made == made


async def test_a_client_that_leaves_in_mid_stream_stops_the_model(long_stream, fake_chat):
    task = await started(long_stream, messages=5)
    made = fake_chat.tokens_made
    long_stream.leave.set()
    left = now()
    await task
    assert now() == left
    assert made == 5  # the start and four events are sent, and the fifth is under way
    await assert_it_stays_stopped(fake_chat, made)


async def test_a_cancelled_request_stops_the_model_in_mid_stream(long_stream, fake_chat):
    task = await started(long_stream, messages=5)
    made = fake_chat.tokens_made
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_it_stays_stopped(fake_chat, made)


async def test_a_cancelled_request_stops_the_model_before_the_first_event(long_stream, fake_chat):
    fake_chat.seconds_per_token = 0.05
    task = asyncio.create_task(long_stream.run())
    await until(lambda: fake_chat.tokens_made, "the first token", every=0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert long_stream.sent == []
    await assert_it_stays_stopped(fake_chat, 1)


async def test_a_cancelled_request_for_a_whole_answer_stops_the_model(application, chat_model, fake_chat):
    fake_chat.seconds_per_token = 0.01
    connection = Connection(application, "/v1/completions", {"model": chat_model, "prompt": "word " * WORDS})
    task = asyncio.create_task(connection.run())
    await until(lambda: fake_chat.tokens_made >= 3, "three tokens", every=0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_it_stays_stopped(fake_chat, 3)


async def test_a_client_that_stays_gets_everything(long_stream, fake_chat):
    fake_chat.seconds_per_token = 0
    await long_stream.run()
    assert fake_chat.tokens_made == WORDS
    assert long_stream.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert long_stream.sent[-2]["body"] == b"data: [DONE]\n\n"


async def test_a_stream_that_was_never_read_is_closed(application):
    closed = []

    async def events():
        try:
            yield b"data: 1\n\n"
            yield b"data: 2\n\n"
        finally:
            closed.append(True)

    async def gone(message):
        raise OSError

    opened = events()
    await anext(opened)
    connection = Connection(application, "/", {})
    connection.incoming.clear()
    connection.leave.set()
    with pytest.raises(Exception):  # noqa: B017, PT011 - what is raised is the server's affair
        await PieceByPiece(opened, EVENTS)(connection.scope, connection.receive, gone)
    assert closed == [True]


async def test_a_client_that_left_before_the_first_event_was_sent_stops_the_model(long_stream, fake_chat):
    long_stream.leave.set()

    async def gone(message):
        raise OSError

    long_stream.send = gone
    with pytest.raises(Exception):  # noqa: B017, PT011 - what is raised is the server's affair
        await long_stream.run()
    await assert_it_stays_stopped(fake_chat, 1)


async def open_events(request, pieces):
    return await open_event_stream(request, pieces, keep_alive_s=0.01)


async def open_bytes(request, pieces):
    return await open_byte_stream(request, pieces, "audio/wav")


@pytest.mark.parametrize(("opened", "first_comes"), [(open_bytes, True), (open_events, True), (open_events, False)])
async def test_a_stream_whose_client_left_before_anything_was_sent_ends_the_call(application, opened, first_comes):
    closed = []

    async def pieces():
        try:
            if not first_comes:
                await asyncio.Event().wait()
            yield b"one"
            yield b"two"
        finally:
            closed.append(True)

    async def gone(message):
        raise OSError

    connection = Connection(application, "/", {})
    connection.leave.set()
    request = Request(connection.scope | {"record": RequestRecord("r")})
    source = pieces()
    response = await opened(request, source)
    with pytest.raises(Exception):  # noqa: B017, PT011 - what is raised is the server's affair
        await response(connection.scope, connection.receive, gone)
    assert closed == [True]
