"""Waiting at its edges: what ends a wait, what it leaves behind, and how a client may ask for it. On virtual time.

The plain cases are in test_waits.py.
"""

import asyncio
import json

import openai
import pytest
from local_dispatcher import LocalDispatcher
from patience import until
from replicas import chat_server
from virtual_time import now

from deployments.router.application import create_application
from deployments.router.calling import LOOK_S
from deployments.router.dispatch import ModelState, State
from deployments.router.services import Services, WaitingRoom
from models.catalog import load_catalog
from models.errors import EngineFailed, ModelStarting

READY = ModelState(State.READY, "fake", replicas=1)
LOADING = ModelState(State.LOADING, "fake", retry_after_s=12.2)
LONG = {"prefer": "wait=30"}


@pytest.fixture
def starting(chat_model, chat, embedding_model, embeddings) -> LocalDispatcher:
    servers = {chat_model: chat, embedding_model: embeddings}
    return LocalDispatcher(servers, dict.fromkeys(servers, LOADING))


@pytest.fixture
def body(chat_model) -> dict:
    return {"model": chat_model, "messages": [{"role": "user", "content": "one two three"}]}


@pytest.fixture
def bodies(body, chat_model, embedding_model) -> dict[str, dict]:
    return {
        "/v1/chat/completions": body,
        "/v1/completions": {"model": chat_model, "prompt": "one two"},
        "/v1/embeddings": {"model": embedding_model, "input": "one two"},
        "/tokenize": {"model": chat_model, "prompt": "one two"},
        "/detokenize": {"model": chat_model, "tokens": []},
    }


async def become(dispatcher, state, *models, after=0.3):
    await asyncio.sleep(after)
    for model in models:
        dispatcher.become(model, state)


def comments(connection: "Connection") -> int:
    return sum(message.get("body") == b": waiting\n\n" for message in connection.sent)


class Connection:
    """One request of a client that stays until `leave` is set, as a server drives the application."""

    def __init__(self, application, body: dict):
        self.application = application
        self.incoming = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"prefer", b"wait=30")],
        }
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
def room() -> WaitingRoom:
    return WaitingRoom(10)


@pytest.fixture
def connect(starting, body, room):
    """Makes a connection of a client that waits for the model of `starting`."""

    def make(keep_alive_s: float, stream: bool = True) -> Connection:
        services = Services(load_catalog(), starting, waiting=room, keep_alive_s=keep_alive_s)
        return Connection(create_application(services), body | {"stream": stream})

    return make


async def assert_nothing_is_left(room, before):
    """No one waits, and no task is there that was not there before."""
    await asyncio.sleep(0.05)
    assert room.inside == 0
    assert asyncio.all_tasks() == before


async def test_a_client_that_leaves_between_comments_leaves_nothing_behind(connect, room, fake_chat):
    before = asyncio.all_tasks()
    connection = connect(keep_alive_s=0.05)
    request = asyncio.create_task(connection.run())
    await until(lambda: comments(connection) == 2, "two comments")
    assert room.inside == 1
    connection.leave.set()
    left = now()
    await request
    assert now() == left
    assert comments(connection) == 2
    await assert_nothing_is_left(room, before)
    assert fake_chat.tokens_made == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("keep_alive_s", [0.05, 10])
async def test_a_cancelled_request_stops_waiting(connect, room, keep_alive_s, stream):
    before = asyncio.all_tasks()
    connection = connect(keep_alive_s, stream)
    request = asyncio.create_task(connection.run())
    await until(lambda: room.inside == 1, "the request waits")
    await asyncio.sleep(0.12)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await assert_nothing_is_left(room, before)
    assert comments(connection) == (2 if stream and keep_alive_s < 1 else 0)


async def test_the_room_is_left_whatever_happens():
    room = WaitingRoom(1)
    with pytest.raises(RuntimeError), room.enter():
        raise RuntimeError
    assert room.inside == 0
    with room.enter():
        assert room.inside == 1
        with pytest.raises(ModelStarting), room.enter():
            pass
    assert room.inside == 0


async def test_every_endpoint_waits(router, starting, bodies):
    async with router(dispatcher=starting) as http, asyncio.TaskGroup() as group:
        group.create_task(become(starting, READY, *starting.servers))
        answers = await asyncio.gather(*(http.post(path, json=bodies[path], headers=LONG) for path in bodies))
    assert [answer.status_code for answer in answers] == [200] * len(bodies)


@pytest.mark.parametrize(
    "prefer",
    [
        [("prefer", 'wait="30"')],
        [("Prefer", "Wait = 30")],
        [("prefer", "respond-async, wait=30.5")],
        [("prefer", "respond-async;wait=30")],
        [("prefer", "respond-async"), ("prefer", "wait=30")],
    ],
)
async def test_a_wait_is_found_in_every_form_of_the_header(*, router, starting, body, chat_model, prefer):
    async with router(dispatcher=starting) as http, asyncio.TaskGroup() as group:
        group.create_task(become(starting, READY, chat_model, after=0.1))
        assert (await http.post("/v1/chat/completions", json=body, headers=prefer)).status_code == 200


@pytest.mark.parametrize("prefer", ["respond-async", "await=30", "wait-for=30", "return=minimal", ""])
async def test_another_preference_is_no_wait(*, router, starting, body, assert_error, prefer):
    began = now()
    async with router(dispatcher=starting) as http:
        response = await http.post("/v1/chat/completions", json=body, headers={"prefer": prefer})
    assert_error(response, 503, "model_starting")
    assert now() == began


async def test_a_wrong_wait_is_refused_also_by_a_model_that_is_up(http, bodies, assert_error):
    for path, body in bodies.items():
        error = assert_error(await http.post(path, json=body, headers={"prefer": "wait=abc"}), 400, "invalid_value")
        assert error["param"] == "Prefer"


async def test_a_model_that_is_not_deployed_is_not_waited_for(http, body, assert_error):
    began = now()
    body["model"] = "qwen2.5-7b-instruct"
    assert_error(await http.post("/v1/chat/completions", json=body, headers=LONG), 503, "model_not_deployed")
    assert now() == began


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (State.FAILED, "model_failed"),
        (State.DRAINING, "model_draining"),
        (State.NOT_DEPLOYED, "model_not_deployed"),
    ],
)
async def test_a_wait_ends_when_there_is_nothing_to_wait_for_any_more(
    *, router, starting, body, chat_model, assert_error, state, code
):
    began = now()
    async with router(dispatcher=starting) as http, asyncio.TaskGroup() as group:
        group.create_task(become(starting, ModelState(state), chat_model))
        response = await http.post("/v1/chat/completions", json=body, headers=LONG)
    assert_error(response, 503, code)
    assert response.headers["retry-after"] == "60"
    assert 0.3 <= now() - began <= 0.3 + LOOK_S


class Sleeping(LocalDispatcher):
    """Its models come up 0.3 s after they are woken."""

    def __init__(self, servers):
        asleep = ModelState(State.SCALED_TO_ZERO, "fake", retry_after_s=4, wakes_on_request=True)
        super().__init__(servers, dict.fromkeys(servers, asleep))
        self.woken = 0

    def wake(self, model):
        self.woken += 1
        self.become(model, ModelState(State.LOADING, "fake", wakes_on_request=True))
        asyncio.get_running_loop().call_later(0.3, self.become, model, READY)


async def test_a_model_that_sleeps_is_woken_once_and_waited_for(router, body, chat_model, chat):
    sleeping = Sleeping({chat_model: chat})
    async with router(dispatcher=sleeping) as http:
        answers = await asyncio.gather(*(http.post("/v1/chat/completions", json=body) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200] * 3
    assert sleeping.woken == 1


async def test_what_was_waited_is_taken_off_the_deadline(
    *, router, starting, fake_chat, body, chat_model, assert_error
):
    fake_chat.seconds_per_token = 5
    began = now()
    async with router(dispatcher=starting, deadline_s=1.0) as http, asyncio.TaskGroup() as group:
        group.create_task(become(starting, READY, chat_model, after=0.6))
        response = await http.post("/v1/chat/completions", json=body, headers=LONG)
    assert_error(response, 504, "deadline_exceeded")
    assert now() - began == pytest.approx(1.0)


async def test_a_deadline_between_comments_is_the_last_event(router, starting, body):
    async with router(dispatcher=starting, deadline_s=0.32, keep_alive_s=0.05) as http:
        response = await http.post("/v1/chat/completions", json=body | {"stream": True}, headers=LONG)
    assert response.status_code == 200
    *waited, last = response.text.strip().split("\n\n")
    assert waited == [": waiting"] * 6
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"


async def test_a_model_that_is_up_but_slow_to_begin_is_kept_alive_too(router, fake_chat, body):
    fake_chat.seconds_per_token = 0.22
    async with router(keep_alive_s=0.05) as http:
        response = await http.post("/v1/chat/completions", json=body | {"stream": True})
    parts = response.text.strip().split("\n\n")
    assert parts[:4] == [": waiting"] * 4
    assert [part.startswith("data: ") for part in parts[4:]] == [True] * 5  # three words, the end, [DONE]


async def test_a_stream_that_is_quick_has_no_comments(http, body):
    response = await http.post("/v1/chat/completions", json=body | {"stream": True})
    assert response.text.startswith("data: ")
    assert ": waiting" not in response.text


async def test_the_official_client_raises_an_error_that_comes_after_comments(client, services, body, chat_model):
    object.__setattr__(services, "keep_alive_s", 0.05)
    services.dispatcher.become(chat_model, LOADING)
    stream = await client.chat.completions.create(**body, stream=True, extra_headers={"prefer": "wait=0.3"})
    with pytest.raises(openai.APIError, match="is starting"):
        await anext(stream)


async def test_a_bug_after_a_comment_is_an_event_that_tells_nothing(router, chat, body):
    async def breaks(request):
        await asyncio.sleep(0.15)
        raise RuntimeError("secret")
        yield b""

    chat.chat = breaks
    async with router(keep_alive_s=0.05) as http:
        response = await http.post("/v1/chat/completions", json=body | {"stream": True})
    assert '"code":"internal_error"' in response.text.strip().split("\n\n")[-1]
    assert "secret" not in response.text


async def test_an_error_before_the_first_comment_keeps_its_status(router, chat_model, body, assert_error):
    class Breaks:
        async def chat(self, request):
            await asyncio.sleep(0.05)
            raise EngineFailed("It broke.")
            yield b""

    async with router({chat_model: await chat_server(Breaks())}, keep_alive_s=5) as http:
        assert_error(
            await http.post("/v1/chat/completions", json=body | {"stream": True}), EngineFailed.status, "engine_failed"
        )
