import asyncio
import json
import logging
import os
import subprocess
import sys

import httpx
import openai
import pytest
from replicas import chat_server

from deployments.router.dispatch import ModelState, State
from deployments.router.edge import CLOSE, Edge, middlewares
from models.errors import EngineFailed, InvalidRequest, RateLimited, ReplicaLost
from models.tasks.chat import event

MESSAGES = [{"role": "user", "content": "one two"}]
SECRET = "secret /home/me/path"


class Failing:
    """An engine of chat models that sends `items` and then raises `error`."""

    def __init__(self, error: Exception, items: tuple[bytes, ...] = ()):
        self.error = error
        self.items = items

    async def chat(self, request):
        for item in self.items:
            yield item
        raise self.error

    complete = chat


def plant_a_bug(server, method, items=()):
    """Of ours: the method sends `items` and then raises what no engine raised."""

    async def breaks(request):
        raise RuntimeError(SECRET)

    async def stream_breaks(request):
        for item in items:
            yield item
        raise RuntimeError(SECRET)

    setattr(server, method, breaks if method == "embed" else stream_breaks)


class FullQueue:
    """A dispatcher whose every model is ready and has a full queue."""

    def __init__(self, *models: str):
        self._states = {model: ModelState(State.READY, replicas=1) for model in models}

    def states(self):
        return self._states

    async def stream(self, spec, method, asked, *, deadline, record):
        raise RateLimited(f"The queue of {spec.id} is full.", "model", 0.3)
        yield  # which makes it a generator

    async def call(self, spec, method, asked, *, deadline, record):
        raise RateLimited(f"The queue of {spec.id} is full.", "model", 0.3)


@pytest.fixture
def chat_body(chat_model) -> dict:
    return {"model": chat_model, "messages": MESSAGES}


@pytest.fixture
def bodies(chat_model, embedding_model) -> dict[str, dict]:
    """One valid body for every endpoint that runs a model."""
    return {
        "/v1/chat/completions": {"model": chat_model, "messages": MESSAGES},
        "/v1/completions": {"model": chat_model, "prompt": "one two"},
        "/v1/embeddings": {"model": embedding_model, "input": "one two"},
        "/tokenize": {"model": chat_model, "prompt": "one two"},
        "/detokenize": {"model": chat_model, "tokens": []},
    }


async def test_an_unknown_model_is_404_with_the_nearest_names(client):
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="smollm2", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "Did you mean smollm2-135m-instruct" in caught.value.message


async def test_a_name_like_no_other_points_to_the_list_of_models(http, bodies, assert_error):
    for path, body in bodies.items():
        error = assert_error(await http.post(path, json=body | {"model": "###"}), 404, "model_not_found")
        assert "GET /v1/models" in error["message"]


async def test_a_model_of_another_task_is_refused_with_one_that_fits(client, chat_model, embedding_model):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=embedding_model, messages=MESSAGES)
    assert caught.value.param == "model"
    assert chat_model in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        await client.embeddings.create(model=chat_model, input="one")
    assert embedding_model in caught.value.message


@pytest.mark.parametrize("name", ["max-tokens", "list", "", "a b", "ö"])
async def test_an_unsupported_parameter_is_named(http, bodies, assert_error, name):
    for path, body in bodies.items():
        error = assert_error(await http.post(path, json=body | {name: 1}), 400, "unsupported_parameter")
        assert error["param"] == name
        assert repr(name) in error["message"]


@pytest.mark.parametrize(
    ("wrong", "param", "code"),
    [
        ({"messages": [{"role": "user", "content": "a", "mood": 1}]}, "messages[0].mood", "unsupported_parameter"),
        (
            {"messages": [*MESSAGES, {"role": "user", "content": [{"type": "text", "text": "a", "size": 1}]}]},
            "messages[1].content[0].size",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "a"}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
            "invalid_value",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
            "invalid_value",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_value"),
        (
            {"response_format": {"type": "json_object", "json_schema": {}}},
            "response_format.json_schema",
            "unsupported_parameter",
        ),
        ({"stream": True, "stream_options": {"include": 1}}, "stream_options.include", "unsupported_parameter"),
    ],
)
async def test_what_is_wrong_inside_a_parameter_is_named_by_its_path(
    *, http, chat_body, assert_error, wrong, param, code
):
    error = assert_error(await http.post("/v1/chat/completions", json=chat_body | wrong), 400, code)
    assert error["param"] == param


async def test_a_wrong_tool_choice_is_named_as_the_client_wrote_it(http, chat_body, assert_error):
    tools = [{"type": "function", "function": {"name": "f"}}]
    wrong = {"tools": tools, "tool_choice": {"type": "function", "function": {"name": 5}}}
    error = assert_error(await http.post("/v1/chat/completions", json=chat_body | wrong), 400)
    assert error["param"] == "tool_choice.function.name"


async def test_a_loading_model_is_503_and_says_when_to_try_again(router, bodies, assert_error, chat_model):
    states = {chat_model: ModelState(State.LOADING, "vllm-cpu", 0.0, retry_after_s=12.2)}
    async with router(states=states) as http:
        for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
            response = await http.post(path, json=bodies[path])
            error = assert_error(response, 503, "model_starting")
            assert error["param"] == "model"
            assert response.headers["retry-after"] == "13"


async def test_a_failed_model_is_503_for_a_minute_at_least(router, chat_body, assert_error, chat_model):
    async with router(states={chat_model: ModelState(State.FAILED, cause="its replicas could not start")}) as http:
        response = await http.post("/v1/chat/completions", json=chat_body)
    error = assert_error(response, 503, "model_failed")
    assert "/readyz" in error["message"]
    assert response.headers["retry-after"] == "60"


async def test_a_model_scaled_to_zero_takes_requests(router, chat_body, chat_model):
    async with router(states={chat_model: ModelState(State.SCALED_TO_ZERO)}) as http:
        assert (await http.post("/v1/chat/completions", json=chat_body)).status_code == 200


async def test_a_model_that_is_not_deployed_is_503(http, chat_body, assert_error):
    response = await http.post("/v1/chat/completions", json=chat_body | {"model": "qwen2.5-7b-instruct"})
    assert_error(response, 503, "model_not_deployed")
    assert response.headers["retry-after"] == "60"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_past_the_deadline_is_504(router, fake_chat, chat_body, assert_error, stream):
    fake_chat.seconds_per_token = 5
    async with router(deadline_s=0.05) as http:
        response = await http.post("/v1/chat/completions", json=chat_body | {"stream": stream})
    assert_error(response, 504, "deadline_exceeded")


async def test_an_embedding_past_the_deadline_is_504(router, embeddings, embedding_model, assert_error):
    async def never(*_):
        await asyncio.Event().wait()

    embeddings.batcher.submit = never
    async with router(deadline_s=0.05) as http:
        response = await http.post("/v1/embeddings", json={"model": embedding_model, "input": "one"})
    assert_error(response, 504, "deadline_exceeded")


async def test_a_stream_past_the_deadline_ends_with_an_error_event(router, fake_chat, chat_body):
    fake_chat.seconds_per_token = 0.05
    body = chat_body | {"stream": True, "messages": [{"role": "user", "content": "word " * 1000}]}
    async with router(deadline_s=0.12) as http:
        response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    *events, last = [json.loads(line.removeprefix("data: ")) for line in response.text.strip().split("\n\n")]
    assert len(events) == 2
    assert events[0]["choices"]
    assert last["error"]["code"] == "deadline_exceeded"


async def test_a_full_queue_is_429_and_says_when_to_try_again(
    *, router, bodies, assert_error, chat_model, embedding_model
):
    async with router(dispatcher=FullQueue(chat_model, embedding_model)) as http:
        for path, body in bodies.items():
            response = await http.post(path, json=body)
            assert_error(response, 429, "queue_full")
            assert response.headers["retry-after"] == "1"
        response = await http.post("/v1/chat/completions", json=bodies["/v1/chat/completions"] | {"stream": True})
        assert_error(response, 429, "queue_full")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [(InvalidRequest("The template refused this.", "messages"), 400), (ReplicaLost("Gone.", None, 2.0), 503)],
)
async def test_an_error_before_the_first_event_keeps_its_status(
    *, router, chat_model, chat_body, assert_error, stream, error, status
):
    async with router({chat_model: await chat_server(Failing(error))}) as http:
        response = await http.post("/v1/chat/completions", json=chat_body | {"stream": stream})
    assert assert_error(response, status, error.code)["message"] == error.message


async def test_an_error_in_a_stream_is_its_last_event(router, chat_model, chat_body):
    engine = Failing(EngineFailed("The model broke."), (event({"choices": []}), event({"choices": [{"index": 0}]})))
    async with router({chat_model: await chat_server(engine)}) as http:
        response = await http.post("/v1/chat/completions", json=chat_body | {"stream": True})
    events = response.text.strip().split("\n\n")
    assert len(events) == 3
    assert json.loads(events[-1].removeprefix("data: ")) == {
        "error": {"message": "The model broke.", "type": "server_error", "param": None, "code": "engine_failed"}
    }


async def test_the_official_client_raises_an_error_that_comes_in_a_stream(client, services, chat_model):
    engine = Failing(EngineFailed("The model broke."), (event({"choices": [{"index": 0}]}),))
    services.dispatcher.servers[chat_model] = await chat_server(engine)
    stream = await client.chat.completions.create(model=chat_model, messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="The model broke"):
        async for _ in stream:
            pass


async def test_a_bug_in_a_stream_is_its_last_event_and_tells_nothing(router, chat, chat_body, caplog):
    plant_a_bug(chat, "chat", [event({"choices": []})])
    async with router() as http:
        response = await http.post(
            "/v1/chat/completions", json=chat_body | {"stream": True}, headers={"x-request-id": "abc-1"}
        )
    last = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "internal_error"
    assert "abc-1" in last["error"]["message"]
    assert "secret" not in response.text
    assert SECRET not in caplog.text
    assert "RuntimeError" in caplog.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_bug_is_500_with_the_request_id_and_tells_nothing(
    *, router, bodies, assert_error, chat, embeddings, caplog, path, stream
):
    body = bodies[path] | ({"stream": stream} if path != "/v1/embeddings" else {})
    for method in ("chat", "complete", "embed"):
        plant_a_bug(embeddings if method == "embed" else chat, method)
    async with router() as http:
        response = await http.post(path, json=body, headers={"x-request-id": "abc-2"})
    error = assert_error(response, 500, "internal_error")
    assert "abc-2" in error["message"]
    assert "secret" not in response.text
    assert response.headers["x-request-id"] == "abc-2"
    assert SECRET not in caplog.text
    assert "RuntimeError" in caplog.text


async def test_a_broken_embedding_engine_is_500_and_tells_nothing(router, embeddings, embedding_model, assert_error):
    def broken(batch):
        raise RuntimeError(SECRET)

    embeddings.batcher.run = broken
    async with router() as http:
        response = await http.post("/v1/embeddings", json={"model": embedding_model, "input": "one"})
    assert_error(response, 500, "engine_failed")
    assert "secret" not in response.text


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/nowhere", "/v1/models/nothing"])
async def test_a_well_formed_request_id_is_echoed_once(http, path):
    response = await http.get(path, headers={"x-request-id": "Az09._:-"})
    assert response.headers.get_list("x-request-id") == ["Az09._:-"]


@pytest.mark.parametrize("given", ["", "a b", "a\tb", "x" * 129, "<script>", '"', "a,b"])
async def test_a_malformed_request_id_is_replaced(http, given):
    first, second = [
        (await http.get("/healthz", headers={"x-request-id": given})).headers["x-request-id"] for _ in range(2)
    ]
    assert len(first) == 32
    assert int(first, 16)
    assert first != second


async def test_the_request_id_is_the_tail_of_the_answers_id(http, chat_body):
    response = await http.post("/v1/chat/completions", json=chat_body, headers={"x-request-id": "abc-3"})
    assert response.json()["id"].endswith("abc-3")


async def test_every_request_is_one_line_of_access_log_without_its_text(http, chat_body, caplog):
    caplog.set_level(logging.INFO, "ray.serve.access")
    await http.post("/v1/chat/completions", json=chat_body, headers={"x-request-id": "abc-4"})
    (line,) = [record for record in caplog.records if getattr(record, "event", None) == "request"]
    assert line.getMessage().startswith("/v1/chat/completions 200 ")
    assert (line.event, line.request_id, line.model, line.status) == ("request", "abc-4", chat_body["model"], 200)
    assert "one two" not in str(line.__dict__)


class Inner:
    """An ASGI application behind Edge that keeps its scope and answers with an id of its own."""

    async def __call__(self, scope, receive, send):
        self.scope = scope
        await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Request-ID", b"inner")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def through_edge(headers: list[tuple[bytes, bytes]]) -> tuple[dict, list[dict]]:
    """What the application behind Edge sees, and what the client gets."""
    inner, sent = Inner(), []

    async def send(message):
        sent.append(message)

    await Edge(inner)({"type": "http", "headers": headers}, None, send)
    return inner.scope, sent


@pytest.mark.parametrize(
    "name",
    [
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
        b"x-session-id",
        b"x-serve-router-pin",
        b"x-haproxy-reload-id",
        b"x-request-id",
    ],
)
@pytest.mark.parametrize("value", [b"1", b"\xff", b"?1"])
async def test_control_headers_of_serve_never_pass_the_edge_however_they_are_spelt(name, value):
    spellings = [name.replace(b"-", b"_"), name.replace(b"_", b"-"), name.upper(), name.title().replace(b"-", b"_", 1)]
    scope, _ = await through_edge([(one, value) for one in spellings] + [(b"content-type", b"application/json")])
    assert [name for name, _ in scope["headers"]] == [b"content-type", b"x-request-id"]
    assert scope["headers"][-1][1] != value or value == b"1"


def test_the_name_that_an_operator_gave_serves_session_header_is_one_of_them():
    code = "from deployments.router.edge import CONTROL_HEADERS; assert {b'my-own', b'x-session-id'} <= CONTROL_HEADERS"
    environment = {**os.environ, "RAY_SERVE_SESSION_ID_HEADER_KEY": "My_Own"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


async def test_what_serve_would_fail_to_decode_is_left_out():
    sent = [(b"traceparent", b"00-\xff"), (b"TraceState", b"a=\xff"), (b"\xff", b"a"), (b"authorization", b"\xff")]
    scope, _ = await through_edge([*sent, (b"traceparent", b"00-1")])
    assert scope["headers"][:-1] == [(b"authorization", b"\xff"), (b"traceparent", b"00-1")]


async def answered_by(answer, assert_error, *, path: str = "/v1/models", version: str = "1.1"):
    """What a client gets of an application behind Edge."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "http_version": version, "headers": []}
    await Edge(answer)(scope, None, send)
    headers = [(name, value) for name, value in sent[0]["headers"]]
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return httpx.Response(sent[0]["status"], headers=headers, content=body), sent


def saying(status: int, text: bytes = b"Request dropped due to backpressure", kind: bytes = b"text/plain"):
    """An application that answers so, as Serve's own code does."""

    async def answer(scope, receive, send):
        headers = [[b"content-type", kind + b"; charset=utf-8"]]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text, "more_body": True})
        await send({"type": "http.response.body", "body": text})

    return answer


@pytest.mark.parametrize(
    ("status", "code", "retry"),
    [
        (503, "unavailable", "1"),
        (429, "queue_full", "1"),
        (408, "deadline_exceeded", None),
        (404, "invalid_value", None),
        (500, "internal_error", None),
    ],
)
async def test_an_error_of_serves_own_gets_openais_form(assert_error, status, code, retry):
    response, _ = await answered_by(saying(status), assert_error)
    assert_error(response, status, code)
    assert "backpressure" not in response.text
    assert response.headers.get("retry-after") == retry
    assert response.headers["x-request-id"]


async def test_pages_of_serve_and_what_is_no_error_stay_as_they_are(assert_error):
    for answer, path in [
        (saying(503), "/-/healthz"),
        (saying(200), "/v1"),
        (saying(400, kind=b"application/json"), "/"),
    ]:
        assert (await answered_by(answer, assert_error, path=path))[0].text.startswith("Request dropped")


async def test_what_serve_fails_with_is_a_clean_500(assert_error, caplog):
    async def failing(scope, receive, send):
        raise UnicodeDecodeError("utf-8", b"secret", 0, 1, SECRET)

    response, _ = await answered_by(failing, assert_error)
    assert_error(response, 500, "internal_error")
    assert "secret" not in response.text
    assert SECRET not in caplog.text


async def test_to_a_client_of_http_1_0_an_answer_has_a_length_and_one_piece(assert_error):
    response, sent = await answered_by(saying(200, b"data: a\n\n", b"text/event-stream"), assert_error, version="1.0")
    assert len(sent) == 2
    assert response.headers["content-length"] == "18"
    assert response.text == "data: a\n\n" * 2

    async def breaking(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError(SECRET)

    response, _ = await answered_by(breaking, assert_error, version="1.0")
    assert_error(response, 500, "internal_error")


async def test_the_edge_gives_the_client_and_the_application_one_and_the_same_id():
    scope, sent = await through_edge([(b"x-request-id", b"bad id"), (b"x-request-id", b"good-id")])
    assert scope["headers"] == [(b"x-request-id", b"good-id")]
    assert sent[0]["headers"] == [(b"x-request-id", b"good-id"), CLOSE]
    scope, sent = await through_edge([(b"x-request-id", b"bad id")])
    ((_, made),) = scope["headers"]
    assert len(made) == 32
    assert sent[0]["headers"] == [(b"x-request-id", made), CLOSE]


async def test_the_edge_leaves_what_is_not_http_alone():
    inner, scope = Inner(), {"type": "lifespan"}

    async def send(message):
        pass

    await Edge(inner)(scope, None, send)
    assert inner.scope is scope


def test_serve_finds_the_edge_at_its_import_path():
    (middleware,) = middlewares()
    assert middleware.cls is Edge
