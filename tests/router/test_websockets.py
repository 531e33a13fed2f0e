"""WebSockets: an id, a record, limits, and errors that a client can read. Routes of the tests call the models."""

import asyncio
import logging
from typing import Any

import pytest
from fastapi import WebSocket
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from deployments.metering import MemoryMeter
from deployments.router import calling
from deployments.router.application import create_application
from deployments.router.edge import Edge
from deployments.router.services import Services
from deployments.telemetry import DURATION, ERRORS, REQUESTS, TOKENS
from models.catalog import load_catalog
from models.errors import EngineFailed, InvalidRequest, ModelStarting, PayloadTooLarge, RateLimited
from models.tasks.embeddings import EMBED, TASK, EmbeddingRequest

CANARY, SECRET = "xylophone-canary-7261", "secret /home/me/path"
ERRORS_AND_CODES = [
    (InvalidRequest("Not this way.", "input"), 400, 1008),
    (PayloadTooLarge("Too much."), 413, 1009),
    (RateLimited("Full.", None, 2.0), 429, 1013),
    (ModelStarting("Starting.", "model", 7.0), 503, 1013),
    (EngineFailed("It broke."), 500, 1011),
    (RuntimeError(SECRET), 500, 1011),
]


class Routes:
    """What a test asks for in `does` happens after `accept`, or before."""

    before: BaseException | None = None
    after: BaseException | None = None

    async def echo(self, websocket: WebSocket) -> None:
        if self.before:
            raise self.before
        await websocket.accept()
        while True:
            text = await websocket.receive_text()
            if self.after:
                raise self.after
            if text == "close":
                return
            await websocket.send_text(text)

    async def embed(self, websocket: WebSocket) -> None:
        """A vector's length for each text; waits for its model before it accepts."""
        spec = websocket.app.state.services.resolve(websocket.query_params["model"], TASK)
        async with calling.admitted(websocket, spec) as calls:
            await websocket.accept()
            async for text in websocket.iter_text():
                found = await calls.call(spec, EMBED, EmbeddingRequest((text,)))
                await websocket.send_json({"dimensions": found.dimensions})


@pytest.fixture
def routes() -> Routes:
    return Routes()


@pytest.fixture
def meter() -> MemoryMeter:
    return MemoryMeter()


@pytest.fixture
def make(services, routes, meter):
    """Makes the application with other limits."""

    def make(**limits: Any):
        application = create_application(Services(load_catalog(), services.dispatcher, meter, **limits))
        application.add_api_websocket_route("/echo", routes.echo)
        application.add_api_websocket_route("/embed", routes.embed)
        return Edge(application)

    return make


@pytest.fixture
def line(caplog):
    """The router's one line of log, when it is there."""
    caplog.set_level(logging.INFO, "ray.serve.access")

    def find() -> Any:
        (one,) = [line for line in caplog.records if getattr(line, "event", None) == "request"]
        return one

    return find


@pytest.fixture
def told(meter):
    """The statuses and the codes of errors that were counted."""

    def find() -> tuple[list[str], list[str]]:
        statuses = [key[-1] for key in meter.values if key[0] == REQUESTS.name]
        return statuses, [key[-1] for key in meter.values if key[0] == ERRORS.name]

    return find


def closed(session: Any) -> WebSocketDisconnect:
    with pytest.raises(WebSocketDisconnect) as caught:
        session.receive_text()
    return caught.value


def test_a_websocket_has_an_id_and_is_one_record_when_it_is_over(make, line, told, meter):
    with TestClient(make()).websocket_connect("/echo", headers={"x-request-id": "abc-1"}) as session:
        assert [value for name, value in session.extra_headers if name == b"x-request-id"] == [b"abc-1"]
        assert b"connection" not in {name for name, _ in session.extra_headers}
        for text in (CANARY, "two"):
            session.send_text(text)
            assert session.receive_text() == text
        assert told() == ([], [])
    written = line()
    assert (written.request_id, written.path, written.status, written.close_code) == ("abc-1", "/echo", 101, 1000)
    assert told() == (["101"], [])
    assert not [key for key in meter.values if key[0] == DURATION.name]
    assert CANARY not in str(written.__dict__)


def test_an_id_that_is_not_well_formed_is_replaced(make):
    with TestClient(make()).websocket_connect("/echo", headers={"x-request-id": "a b"}) as session:
        (value,) = [value for name, value in session.extra_headers if name == b"x-request-id"]
    assert value.isalnum()


def test_a_handler_that_is_done_closes_its_websocket(make, line):
    with TestClient(make()).websocket_connect("/echo") as session:
        session.send_text("close")
        assert closed(session).code == 1000
    assert (line().status, line().close_code) == (101, 1000)


@pytest.mark.parametrize(("error", "status", "code"), ERRORS_AND_CODES)
def test_before_it_is_accepted_an_error_is_an_answer(*, make, routes, line, told, error, status, code):
    routes.before = error
    with (
        pytest.raises(WebSocketDenialResponse) as caught,
        TestClient(make()).websocket_connect("/echo", headers={"x-request-id": "abc-2"}),
    ):
        pass
    answer = caught.value
    assert (answer.status_code, answer.headers["x-request-id"]) == (status, "abc-2")
    known = getattr(error, "code", "internal_error")
    assert answer.json()["error"]["code"] == known
    if getattr(error, "retry_after", None):
        assert answer.headers["retry-after"] == str(int(error.retry_after))
    assert SECRET not in answer.text
    assert line().status == status
    assert told() == ([str(status)], [known])


@pytest.mark.parametrize(("error", "status", "code"), ERRORS_AND_CODES)
def test_after_that_an_error_is_a_close_that_says_why(*, make, routes, line, told, error, status, code):
    routes.after = error
    with TestClient(make()).websocket_connect("/echo") as session:
        session.send_text("one")
        end = closed(session)
    known = getattr(error, "code", "internal_error")
    assert end.code == code
    assert end.reason.startswith(f"{known}: ")
    assert SECRET not in end.reason
    assert (line().status, line().code, line().close_code) == (101, known, code)
    assert told() == (["101"], [known])


def test_a_reason_fits_into_its_frame(make, routes):
    routes.after = InvalidRequest("Zu viele Wörter: " + "ö" * 200)
    with TestClient(make()).websocket_connect("/echo") as session:
        session.send_text("one")
        reason = closed(session).reason
    assert 120 <= len(reason.encode()) <= 123


def test_a_message_has_a_limit(make, line):
    with TestClient(make(body_limit=100)).websocket_connect("/echo") as session:
        session.send_text("a" * 100)
        assert session.receive_text() == "a" * 100
        session.send_text("ö" * 51)  # 102 bytes
        end = closed(session)
    assert (end.code, line().code) == (1009, "payload_too_large")
    assert "A message is over" in end.reason


def test_all_messages_together_have_a_limit(make, line):
    with TestClient(make(websocket_limit=250)).websocket_connect("/echo") as session:
        for _ in range(2):
            session.send_text("a" * 100)
            session.receive_text()
        session.send_text("a" * 100)
        end = closed(session)
    assert (end.code, line().code) == (1009, "payload_too_large")
    assert "in all" in end.reason


def test_a_websocket_on_which_nothing_happens_is_closed(make, line):
    with TestClient(make(websocket_idle_s=0.05)).websocket_connect("/echo") as session:
        end = closed(session)
    assert (end.code, line().code) == (1008, "idle")


async def test_a_client_that_does_not_read_is_cut_off(make, line):
    """On the bare protocol: a test client always reads."""
    incoming = [{"type": "websocket.receive", "text": "hello"}, {"type": "websocket.connect"}]

    async def receive():
        if not incoming:
            await asyncio.Event().wait()
        return incoming.pop()

    async def send(message):
        if message["type"] != "websocket.accept":
            await asyncio.Event().wait()

    scope = {"type": "websocket", "path": "/echo/", "headers": [], "query_string": b"", "subprotocols": []}
    async with asyncio.timeout(3000):
        await make(websocket_idle_s=30)(scope, receive, send)
    assert (line().code, line().status, line().close_code) == ("idle", 499, 1006)


def test_a_path_that_is_not_there_is_refused(make, line):
    with pytest.raises(WebSocketDisconnect), TestClient(make()).websocket_connect("/nothing"):
        pass
    assert line().status == 403


def test_a_websocket_calls_models_as_a_request_does(make, line, meter, embedding_model):
    with TestClient(make()).websocket_connect(f"/embed?model={embedding_model}") as session:
        for text in ("one two", "three"):
            session.send_text(text)
            assert session.receive_json() == {"dimensions": 384}
    written = line()
    assert (written.model, written.status, written.prompt_tokens) == (embedding_model, 101, 3)
    assert [call["method"] for call in written.calls] == ["embed", "embed"]
    assert meter.total(TOKENS, embedding_model, "embeddings", "prompt") == 3


def test_a_model_that_is_not_there_is_an_answer_before_the_websocket_is_accepted(make, told):
    with pytest.raises(WebSocketDenialResponse) as caught, TestClient(make()).websocket_connect("/embed?model=bge-m3"):
        pass
    assert (caught.value.status_code, caught.value.json()["error"]["code"]) == (503, "model_not_deployed")
    assert told() == (["503"], ["model_not_deployed"])


class Connection:
    """A WebSocket as a server drives the application: what the client sends is put in, and what it gets is kept."""

    def __init__(self, application: Any, **scope: Any):
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.sent: list[dict[str, Any]] = []
        self.accepted = asyncio.Event()
        self.scope = {"type": "websocket", "path": "/echo", "headers": [], "query_string": b"", **scope}
        self.task = asyncio.create_task(application(self.scope, self.incoming.get, self.send))

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        self.accepted.set()


@pytest.mark.parametrize(("code", "status"), [(1000, 101), (1001, 101), (1005, 101), (1006, 499)])
async def test_a_client_that_vanishes_is_told_from_one_that_closes(make, line, told, code, status):
    connection = Connection(make())
    await connection.accepted.wait()
    connection.incoming.put_nowait({"type": "websocket.disconnect", "code": code})
    await connection.task
    assert (line().status, line().close_code) == (status, code)
    assert told() == ([str(status)], [])


@pytest.mark.parametrize(("code", "status"), [(1000, 101), (1006, 499)])
async def test_one_that_serve_cancels_because_its_client_has_left_is_recorded_too(make, line, code, status):
    """Serve reads ahead of the application, through the edge, and cancels it when it has read the end."""
    edge = make()
    application = edge.app

    async def as_serve_does(scope, receive, send):
        ahead: asyncio.Queue[Any] = asyncio.Queue()
        inner = asyncio.create_task(application(scope, ahead.get, send))
        while (message := await receive())["type"] != "websocket.disconnect":
            ahead.put_nowait(message)
        inner.cancel()
        await asyncio.wait([inner])

    edge.app = as_serve_does
    connection = Connection(edge)
    await connection.accepted.wait()
    connection.incoming.put_nowait({"type": "websocket.disconnect", "code": code})
    await connection.task
    assert (line().status, line().close_code) == (status, code)


async def test_one_that_is_cancelled_without_a_word_counts_as_vanished(make, line):
    connection = Connection(make())
    await connection.accepted.wait()
    connection.task.cancel()
    await asyncio.wait([connection.task])
    assert line().status == 499


async def test_where_a_server_knows_no_answers_a_refusal_is_a_close(make, routes):
    routes.before = RateLimited("Full.")
    connection = Connection(make())
    await connection.task
    assert connection.sent == [{"type": "websocket.close", "code": 1013, "reason": "queue_full: Full."}]
