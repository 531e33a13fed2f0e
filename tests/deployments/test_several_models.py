"""A request that calls several models: through the router as it is deployed, to real servers. On virtual time."""

import asyncio
import logging
import re
from contextlib import aclosing

import httpx
import pytest
from fastapi import Request
from local_serve import Client, local_serve, slow_chat, slow_embeddings  # noqa: F401
from patience import until
from replicas import CHAT, EMBEDDINGS
from virtual_time import now

from deployments.router import calling
from deployments.router.services import Services
from deployments.telemetry import ERRORS, REQUESTS, TOKENS
from models.errors import EngineFailed
from models.tasks.chat import CHAT as CHAT_METHOD
from models.tasks.chat import GenerationRequest
from models.tasks.embeddings import EMBED, EmbeddingRequest

OTHER = "bge-m3"
OTHER_CHAT = "llama-3.1-8b-instruct"

pytestmark = pytest.mark.usefixtures("virtual_clock")


def generation(text: str) -> GenerationRequest:
    return GenerationRequest({"messages": [{"role": "user", "content": text}]}, "r-1")


async def in_turn(request: Request) -> dict:
    """What chat says of a text whose vector was made first; the request is for the chat model."""
    services: Services = request.app.state.services
    spec = services.catalog[CHAT]
    async with calling.admitted(request, spec) as calls:
        found = await calls.call(services.catalog[EMBEDDINGS], EMBED, EmbeddingRequest(("one two three four",)))
        async with aclosing(calls.stream(spec, CHAT_METHOD, generation("word " * found.prompt_tokens))) as items:
            (document,) = [item async for item in items]
    return {"document": document.decode()}


async def vectors_in_turn(request: Request) -> dict:
    """Vectors of two models, one after the other; the request is for the first."""
    catalog = request.app.state.services.catalog
    async with calling.admitted(request, catalog[EMBEDDINGS]) as calls:
        asked = EmbeddingRequest(("one two",))
        both = [await calls.call(catalog[name], EMBED, asked) for name in (EMBEDDINGS, OTHER)]
    return {"dimensions": [one.dimensions for one in both]}


async def at_once(request: Request) -> dict:
    """Vectors of two models; the request is for the first."""
    catalog = request.app.state.services.catalog
    asked = EmbeddingRequest(("one two",))
    async with calling.admitted(request, catalog[EMBEDDINGS]) as calls:
        both = await asyncio.gather(*(calls.call(catalog[name], EMBED, asked) for name in (EMBEDDINGS, OTHER)))
    await asyncio.sleep(0.4)  # work of the router itself
    return {"dimensions": [one.dimensions for one in both]}


async def chats_at_once(request: Request) -> dict:
    """What two chat models say; the request is for the first."""
    catalog = request.app.state.services.catalog
    async with calling.admitted(request, catalog[CHAT]) as calls:

        async def listen(name: str) -> list[bytes]:
            return [item async for item in calls.stream(catalog[name], CHAT_METHOD, generation("word " * 100))]

        both = await asyncio.gather(listen(CHAT), listen(OTHER_CHAT))
    return {"items": list(map(len, both))}


async def vector_of_each_piece(request: Request) -> None:
    """A chat model's stream with a vector of each piece, and beside it a call that fails later; it is for chat."""
    catalog = request.app.state.services.catalog
    async with calling.admitted(request, catalog[CHAT]) as calls:

        async def follow() -> None:
            body = {"messages": [{"role": "user", "content": "word " * 100}], "stream": True}
            async for _ in calls.stream(catalog[CHAT], CHAT_METHOD, GenerationRequest(body, "r-1")):
                await calls.call(catalog[EMBEDDINGS], EMBED, EmbeddingRequest(("one",)))

        await asyncio.gather(follow(), calls.call(catalog[OTHER], EMBED, EmbeddingRequest(("one",))))


@pytest.fixture
def serve(local_serve):  # noqa: F811
    return local_serve


async def router_of(serve, **args):
    application = await serve.router(**args)
    application.add_api_route("/in-turn", in_turn, methods=["POST"])
    application.add_api_route("/vectors-in-turn", vectors_in_turn, methods=["POST"])
    application.add_api_route("/at-once", at_once, methods=["POST"])
    application.add_api_route("/chats-at-once", chats_at_once, methods=["POST"])
    application.add_api_route("/vector-of-each-piece", vector_of_each_piece, methods=["POST"])
    return application


async def post(application, path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://medley", timeout=None) as http:
        return await http.post(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def timing_of(answer: httpx.Response) -> dict[str, float]:
    return {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])}


@pytest.fixture
def line(caplog):
    """The router's line of log about the one request there was."""
    caplog.set_level(logging.INFO, "ray.serve.access")

    def find():
        (one,) = [line for line in caplog.records if getattr(line, "event", None) == "request"]
        return one

    return find


async def test_two_models_in_turn_are_one_record_with_each_call(serve, line):
    serve.deploy(CHAT, await slow_chat(0.1))
    serve.deploy(EMBEDDINGS, await slow_embeddings(0.3))
    answer = await post(await router_of(serve), "/in-turn")
    assert answer.status_code == 200, answer.text
    assert answer.text.count("word") == 4
    assert timing_of(answer) == {"router": 0, "queue": 0, "engine": pytest.approx(700)}
    written = line()
    assert (written.model, written.task, written.status) == (CHAT, "chat", 200)
    assert (written.total_ms, written.engine_ms, written.queue_ms, written.router_ms) == (700, 700, 0, 0)
    assert (written.prompt_tokens, written.completion_tokens) == (8, 4)
    first, second = written.calls
    assert (first["model"], first["method"], first["variant"]) == (EMBEDDINGS, "embed", "onnx")
    assert (first["engine_ms"], first["total_ms"], first["prompt_tokens"], first["code"]) == (300, 300, 4, None)
    assert (second["model"], second["method"], second["engine_ms"]) == (CHAT, "chat", 400)
    assert serve.meter.total(REQUESTS, CHAT, "chat", "200") == 1
    assert [key for key in serve.meter.values if key[0] == REQUESTS.name] == [(REQUESTS.name, CHAT, "chat", "200")]
    assert serve.meter.total(TOKENS, EMBEDDINGS, "embeddings", "prompt") == 4
    assert serve.meter.total(TOKENS, CHAT, "chat", "completion") == 4


async def test_time_of_two_calls_at_once_is_counted_once_in_the_whole(serve, line):
    serve.deploy(EMBEDDINGS, await slow_embeddings(0.3))
    serve.deploy(OTHER, await slow_embeddings(0.5))
    answer = await post(await router_of(serve), "/at-once")
    assert answer.status_code == 200, answer.text
    assert timing_of(answer) == {"router": pytest.approx(400), "queue": 0, "engine": pytest.approx(800)}
    written = line()
    assert (written.total_ms, written.engine_ms, written.router_ms) == (900, 800, 400)
    assert sorted((call["model"], call["engine_ms"]) for call in written.calls) == [(EMBEDDINGS, 300), (OTHER, 500)]


async def test_the_second_call_has_what_is_left_of_the_deadline(serve, line):
    chat = await slow_chat(0.1)
    serve.deploy(CHAT, chat)
    serve.deploy(EMBEDDINGS, await slow_embeddings(0.3))
    application, began = await router_of(serve), now()
    answer = await post(application, "/in-turn", x_deadline="0.55")
    assert now() - began == pytest.approx(0.55)
    assert answer.status_code == 504
    error = answer.json()["error"]
    assert error["code"] == "deadline_exceeded"
    assert "longer than 0.55 s" in error["message"]
    made = chat.engine.tokens_made
    assert made == 3  # the third was under way
    await asyncio.sleep(1)
    assert chat.engine.tokens_made == made
    assert [call["code"] for call in line().calls] == [None, "deadline_exceeded"]
    assert serve.meter.total(ERRORS, CHAT, "chat", "client_deadline_exceeded") == 1


async def test_the_second_of_two_answers_has_what_is_left_of_the_deadline(serve, line):
    serve.deploy(EMBEDDINGS, await slow_embeddings(0.3))
    serve.deploy(OTHER, await slow_embeddings(0.5))
    application, began = await router_of(serve), now()
    answer = await post(application, "/vectors-in-turn", x_deadline="0.6")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert now() - began == pytest.approx(0.6)
    assert [call["code"] for call in line().calls] == [None, "deadline_exceeded"]
    assert (await post(application, "/vectors-in-turn", x_deadline="0.9")).status_code == 200


async def test_a_client_that_leaves_ends_both_calls(serve, line):
    ended = []
    for name in (EMBEDDINGS, OTHER):
        server = await slow_embeddings(60)
        serve.deploy(name, server)

        async def watched(request, name=name, embed=server.embed):
            try:
                return await embed(request)
            except asyncio.CancelledError:
                ended.append(name)
                raise

        server.embed = watched
    client = Client(await router_of(serve), "/at-once", {}, lambda got: False)
    request = asyncio.create_task(client.run())
    await until(lambda: all(one.replicas[0].calls for one in serve.applications.values()), "both work", every=0.01)
    left = now()
    request.cancel()  # what Serve does when a client has left
    with pytest.raises(asyncio.CancelledError):
        await request
    await asyncio.sleep(0)
    assert sorted(ended) == sorted((EMBEDDINGS, OTHER))
    assert now() == left
    assert not any(one.replicas[0].calls for one in serve.applications.values())
    written = line()
    assert written.status == 499
    assert [call["code"] for call in written.calls] == ["cancelled", "cancelled"]
    assert not any(one.replicas[0].server.admission.inside for one in serve.applications.values())


async def test_when_one_of_two_calls_fails_the_other_is_not_left_running(serve, line):
    quick, slow = await slow_embeddings(), await slow_embeddings(60)

    async def breaks(request):
        raise EngineFailed("It broke.")

    quick.embed = breaks
    serve.deploy(EMBEDDINGS, quick)
    serve.deploy(OTHER, slow)
    application, began = await router_of(serve), now()
    answer = await post(application, "/at-once")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failed")
    assert now() == began
    assert not serve.applications[OTHER].replicas[0].calls
    assert {call["model"]: call["code"] for call in line().calls} == {EMBEDDINGS: "engine_failed", OTHER: "cancelled"}


async def test_when_one_of_two_streams_fails_the_other_is_not_left_running(serve):
    quick, slow = await slow_chat(), await slow_chat(1)

    async def breaks(request):
        await asyncio.sleep(2.5)
        raise EngineFailed("It broke.")
        yield b""

    quick.chat = breaks
    serve.deploy(CHAT, quick)
    serve.deploy(OTHER_CHAT, slow)
    answer = await post(await router_of(serve), "/chats-at-once")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failed")
    made = slow.engine.tokens_made
    await asyncio.sleep(10)
    assert slow.engine.tokens_made == made == 3


async def test_a_stream_is_not_left_running_after_its_reader_has_called_another_model(serve):
    chat, breaking = await slow_chat(1), await slow_embeddings()

    async def breaks(request):
        await asyncio.sleep(4.5)
        raise EngineFailed("It broke.")

    breaking.embed = breaks
    serve.deploy(CHAT, chat)
    serve.deploy(EMBEDDINGS, await slow_embeddings())
    serve.deploy(OTHER, breaking)
    answer = await post(await router_of(serve), "/vector-of-each-piece")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failed")
    made = chat.engine.tokens_made
    await asyncio.sleep(10)
    assert chat.engine.tokens_made == made
    assert 3 <= made <= 5


async def test_a_client_that_leaves_stops_both_engines(serve, line):
    servers = [await slow_chat(1) for _ in range(2)]
    serve.deploy(CHAT, servers[0])
    serve.deploy(OTHER_CHAT, servers[1])
    client = Client(await router_of(serve), "/chats-at-once", {}, lambda got: False)
    request = asyncio.create_task(client.run())
    await asyncio.sleep(4.5)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    made = [server.engine.tokens_made for server in servers]
    await asyncio.sleep(10)
    assert [server.engine.tokens_made for server in servers] == made == [5, 5]
    assert [call["code"] for call in line().calls] == ["cancelled", "cancelled"]


async def test_only_the_model_that_the_request_is_for_is_asked_for_room(serve):
    servers, asked = {CHAT: await slow_chat(0.1), EMBEDDINGS: await slow_embeddings(0.3)}, []
    for name, server in servers.items():
        serve.deploy(name, server)

        def enter(work, terms, *others, name=name, enter=server.admission.enter):
            asked.append((name, terms))
            return enter(work, terms, *others)

        server.admission.enter = enter
    assert (await post(await router_of(serve, promises="cpu"), "/in-turn")).status_code == 200
    assert [(name, terms.sure, terms.promised) for name, terms in asked] == [
        (EMBEDDINGS, True, False),
        (CHAT, False, True),
    ]
    assert asked[1][1].waited_s == pytest.approx(0.3)  # the promise is for the whole


async def test_a_second_model_that_is_not_up_is_waited_for_within_the_deadline(serve):
    serve.deploy(EMBEDDINGS, await slow_embeddings(0.3))
    other = serve.deploy(OTHER)
    application = await router_of(serve)
    refused = await post(application, "/at-once")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_starting")
    began = now()
    late = await post(application, "/at-once", prefer="wait=60", x_deadline="2")
    assert (late.status_code, now() - began) == (504, pytest.approx(2))
    waiting = asyncio.create_task(post(application, "/at-once", prefer="wait=60"))
    await asyncio.sleep(5)
    other.add(await slow_embeddings(0.3))
    answer = await waiting
    assert answer.status_code == 200
    assert 5000 <= timing_of(answer)["wait"] <= 6500
