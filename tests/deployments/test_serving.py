"""The router as it is deployed, with its real dispatcher, over real servers of models with fake engines: what goes
wrong between them, and what a client sees of it. On virtual time."""

import asyncio
import json
import logging
import re
import threading
from collections import Counter

import httpx
import pytest
from local_serve import (  # noqa: F401
    DOODLE,
    PROFILE,
    Client,
    Stream,
    image_server,
    local_serve,
    slow_chat,
    slow_embeddings,
)
from patience import patience, until
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError
from replicas import CHAT, EMBEDDINGS, paced
from virtual_time import now

from deployments.board import DIGESTS
from deployments.servers.denoising import MOST_GROUPS
from deployments.telemetry import COLD_START, IN_FLIGHT, REPLICAS, REQUESTS, STATE
from models.errors import EngineFailed

CANARY = "xylophone-canary-5772"

pytestmark = pytest.mark.usefixtures("virtual_clock")


def http_of(application) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://medley", timeout=None)


def chat(text="one two three", **more) -> dict:
    return {"model": CHAT, "messages": [{"role": "user", "content": text}], **more}


async def ask(http, stream=False, text="one two three", **more) -> httpx.Response:
    return await http.post("/v1/chat/completions", json=chat(text, stream=stream), **more)


def words(response) -> str:
    """What a whole answer or a stream says."""
    if not response.text.startswith("data: "):
        return response.json()["choices"][0]["message"]["content"]
    events = [json.loads(line) for line in re.findall(r"data: ({.*})", response.text)]
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in events if one.get("choices"))


def code_of(response) -> str:
    """Of the error that an answer is, or that a stream ends in."""
    last = response.text.strip().split("\n\n")[-1]
    return json.loads(last.removeprefix("data: "))["error"]["code"]


@pytest.fixture
def serve(local_serve):  # noqa: F811
    return local_serve


def test_every_variable_of_the_router_is_one_that_is_read():
    from ray.serve._private import constants

    from deployments.router.ingress import ROUTER_ENV

    known = set(vars(constants)) | {"RAY_grpc_client_keepalive_timeout_ms"}  # which Ray reads, in C++
    assert set(ROUTER_ENV) <= known


# Clients that leave


async def test_a_client_that_leaves_its_stream_stops_the_engine_within_a_token(serve):
    server = await slow_chat(0.1)
    application = serve.deploy(CHAT, server)
    client = Client(await serve.router(), "/v1/chat/completions", chat("word " * 500, stream=True), at_event(3))
    await client.run()
    made = server.engine.tokens_made
    assert made <= 4
    await asyncio.sleep(10)
    assert server.engine.tokens_made == made
    assert not application.replicas[0].calls


def at_event(count):
    return lambda got: got.count(b"data: ") >= count


async def test_a_client_that_gives_a_whole_answer_up_stops_the_engine_within_a_token(serve):
    server = await slow_chat(0.1)
    application = serve.deploy(CHAT, server)
    client = Client(await serve.router(), "/v1/chat/completions", chat("word " * 500), lambda got: False)
    request = asyncio.create_task(client.run())
    await until(lambda: server.engine.tokens_made == 3, "three tokens", every=0.01)
    request.cancel()  # what Serve does when a client has left
    with pytest.raises(asyncio.CancelledError):
        await request
    await asyncio.sleep(10)
    assert server.engine.tokens_made == 3
    assert not application.replicas[0].calls
    assert serve.meter.total(REQUESTS, CHAT, "chat", "499") == 1


async def test_a_stream_that_its_replica_refused_is_not_cancelled(serve, monkeypatch):
    cancelled = []
    monkeypatch.setattr(Stream, "cancel", cancelled.append)
    serve.deploy(CHAT, await slow_chat(0.1))
    async with http_of(await serve.router()) as http:
        answer = await ask(http, stream=True, text="word " * 100_000)
    assert code_of(answer) == "context_length_exceeded"
    assert cancelled == []


async def test_a_client_that_leaves_its_pictures_frees_the_replica_within_a_step(serve):
    server = await image_server()
    step, go, begun = server.engine.step, threading.Semaphore(0), []

    def held(batch):
        begun.append(len(batch))
        assert go.acquire(timeout=patience())
        step(batch)

    server.engine.step = held
    application = serve.deploy(DOODLE, server)
    body = {"model": DOODLE, "prompt": "red", "n": 2, "steps": 50, "stream": True, "progress": True}
    go.release(3)
    client = Client(await serve.router(), "/v1/images/generations", body, at_event(6))
    await client.run()
    assert len(begun) <= 4  # three, and the one that was under way
    go.release(100)
    await until(lambda: not application.replicas[0].calls, "the replica is free")
    await until(server.denoising._runner.done, "the loop of pictures rests")
    assert len(begun) <= 4


# More than there is room for


async def test_a_full_queue_says_429_and_when_to_come_again(serve):
    """64 at work, 64 that wait, and the rest is told to come back."""
    application = serve.deploy(CHAT, await slow_chat(1))
    async with http_of(await serve.router()) as http, asyncio.TaskGroup() as group:
        first = [group.create_task(ask(http, stream=True)) for _ in range(64)]
        await until(lambda: len(application.replicas[0].calls) == 64, "the replica is full")
        others = [group.create_task(ask(http, stream=number % 2 == 0)) for number in range(136)]
        await until(lambda: sum(one.done() for one in others) == 72, "those that are too many", every=0.01)
        assert application.waiting == 64
        assert not any(one.done() for one in first)
    refused = [one.result() for one in others if one.result().status_code != 200]
    assert [one.result().status_code for one in first] == [200] * 64
    assert Counter(one.result().status_code for one in others) == {200: 64, 429: 72}
    assert {one.headers["retry-after"] for one in refused} == {"1"}
    assert {code_of(one) for one in refused} == {"queue_full"}


@pytest.mark.parametrize("promises", [None, PROFILE])
async def test_a_hundred_clients_get_200_or_429_and_leave_nothing_behind(serve, promises):
    applications = [
        serve.deploy(CHAT, await slow_chat(0.2), places=8, queue=16),
        serve.deploy(EMBEDDINGS, await slow_embeddings(), places=8, queue=16),
    ]
    statuses, retry_after = Counter(), set()

    async def client(http, number):
        for turn in range(3):
            if (number + turn) % 2:
                body = {"model": EMBEDDINGS, "input": f"sentence {number} {turn}"}
                answer = await http.post("/v1/embeddings", json=body)
            else:
                answer = await ask(http, stream=number % 3 == 0)
            statuses[answer.status_code] += 1
            if answer.status_code == 429:
                retry_after.add(int(answer.headers["retry-after"]))
                assert code_of(answer) in ("queue_full", "too_busy")

    async with http_of(await serve.router(promises=promises)) as http:
        await asyncio.gather(*(client(http, number) for number in range(100)))
        await asyncio.sleep(2)  # the next look at what runs writes the gauges
    assert statuses.total() == 300
    assert set(statuses) == {200, 429}
    assert min(retry_after) >= 1
    for application in applications:
        assert application.waiting == 0
        assert not application.replicas[0].calls
        assert serve.meter.total(IN_FLIGHT, application.name) == 0
        assert not application.replicas[0].server.admission.inside


async def test_requests_under_way_are_told_of_and_are_gone_whatever_they_ended_in(serve):
    server = await slow_chat(1)
    serve.deploy(CHAT, server)
    async with http_of(await serve.router(deadline_s=30)) as http:
        for stream in (False, True):
            answer = asyncio.create_task(ask(http, stream=stream, text="word " * 20))
            await asyncio.sleep(5)
            assert serve.meter.total(IN_FLIGHT, CHAT) == 1
            assert (await answer).status_code == 200
            late = await ask(http, stream=stream, text="word " * 40)
            assert code_of(late) == "deadline_exceeded"
            left = asyncio.create_task(ask(http, stream=stream, text="word " * 20))
            await asyncio.sleep(5)
            left.cancel()
            await asyncio.sleep(2)
            assert serve.meter.total(IN_FLIGHT, CHAT) == 0


# Replicas that die


KINDS = ["stream", "whole", "embeddings"]


async def deploy(serve, kind, *seconds, **options):
    """A model with replicas that take so many seconds for an answer, or for each of its three words."""
    servers = [await slow_embeddings(one) if kind == "embeddings" else await slow_chat(one) for one in seconds]
    return serve.deploy(EMBEDDINGS if kind == "embeddings" else CHAT, *servers, **options)


async def ask_for(http, kind):
    if kind == "embeddings":
        return await http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "one two three"})
    return await ask(http, stream=kind == "stream")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_whose_replica_dies_before_its_first_word_is_made_again(serve, kind):
    application = await deploy(serve, kind, 50, 1, places=1)
    first, second = application.replicas
    async with http_of(await serve.router()) as http:
        answer = asyncio.create_task(ask_for(http, kind))
        await asyncio.sleep(3)
        assert (len(first.calls), len(second.calls)) == (1, 0)
        first.die(application)
        answered = await answer
    assert answered.status_code == 200
    assert len(application.asked) == 2
    if kind != "embeddings":
        assert words(answered) == "one two three"
        assert (first.server.engine.tokens_made, second.server.engine.tokens_made) == (1, 3)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_that_loses_two_replicas_is_an_honest_503(serve, kind):
    application = await deploy(serve, kind, 50, 50, 50, places=1)
    async with http_of(await serve.router()) as http:
        answer = asyncio.create_task(ask_for(http, kind))
        for _ in range(2):
            await asyncio.sleep(1)
            application.replicas[0].die(application)
        answered = await answer
    assert (answered.status_code, code_of(answered)) == (503, "replica_lost")
    assert answered.headers["retry-after"] == "2"
    assert len(application.asked) == 2


async def test_a_stream_that_loses_its_replica_ends_in_an_error_and_begins_no_second_time(serve):
    application = serve.deploy(CHAT, await slow_chat(1), await slow_chat(1), places=1)
    async with http_of(await serve.router()) as http:
        answer = asyncio.create_task(ask(http, stream=True))
        await asyncio.sleep(2.5)
        application.replicas[0].die(application)
        answered = await answer
    assert answered.status_code == 200
    assert (words(answered), code_of(answered)) == ("one two", "replica_lost")
    assert len(application.asked) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_both_tries_together_have_one_deadline(serve, kind):
    application = await deploy(serve, kind, 60, 60, places=1)
    async with http_of(await serve.router(deadline_s=10, keep_alive_s=60)) as http:
        began = now()
        answer = asyncio.create_task(ask_for(http, kind))
        await asyncio.sleep(6)
        application.replicas[0].die(application)
        assert code_of(await answer) == "deadline_exceeded"
        assert now() - began == pytest.approx(10)
        await asyncio.sleep(0)
    assert (answer.result().status_code, len(application.asked)) == (504, 2)
    assert not application.replicas[0].calls


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("error", "status", "code", "tries"),
    [
        (DeploymentUnavailableError("model"), 503, "replica_lost", 2),
        (EngineFailed("It broke."), EngineFailed.status, "engine_failed", 1),
        (ValueError(CANARY), 500, "internal_error", 1),
    ],
    ids=["replaced", "refused", "bug"],
)
async def test_other_errors_of_a_call_are_told_as_what_they_are(*, serve, caplog, error, status, code, tries, kind):
    application = await deploy(serve, kind, 1)

    async def fails(call):
        raise error

    async with http_of(await serve.router()) as http:
        await asyncio.sleep(1)  # it has made its first call
        application.place = fails
        answer = await ask_for(http, kind)
    assert (answer.status_code, code_of(answer)) == (status, code)
    assert ("is being replaced" in answer.text) == isinstance(error, DeploymentUnavailableError)
    assert len(application.asked) == tries
    assert CANARY not in answer.text + caplog.text


# What runs, and what sleeps


async def test_a_model_that_sleeps_is_woken_each_time_and_those_who_wait_are_served(serve):
    application = serve.deploy(CHAT, lowest=0)
    async with http_of(await serve.router(promises=PROFILE)) as http:
        for _ in range(2):
            woken = application.called.count("wake")
            hurried = await ask(http, headers={"prefer": "wait=0"})
            assert (hurried.status_code, code_of(hurried)) == (503, "model_starting")
            waiting = [asyncio.create_task(ask(http)) for _ in range(3)]
            await asyncio.sleep(5)
            # The first of them for the one that did not wait.
            assert application.called.count("wake") == woken + 4
            assert application.waiting == 4
            assert not any(one.done() for one in waiting)
            replica = application.add(await slow_chat())
            assert {(await one).status_code for one in waiting} == {200}
            replica.die(application)
            await asyncio.sleep(2)


async def test_who_waits_for_a_model_that_sleeps_is_counted_until_it_stops_waiting(serve):
    application = serve.deploy(CHAT, lowest=0)
    async with http_of(await serve.router(promises=PROFILE, most_waiting=3)) as http:
        waiting = [asyncio.create_task(ask(http)) for _ in range(4)]
        await asyncio.sleep(1)
        assert application.waiting == 1 + 3  # the call that wakes it, and one for each that may wait
        assert [one.result().status_code for one in waiting if one.done()] == [503]
        for one in waiting:
            one.cancel()
        await asyncio.sleep(1)
        assert application.waiting == 1


async def test_a_router_calls_each_replica_that_comes_before_anybody_asks(serve):
    """The first call opens a connection, and who is refused should not wait for that."""
    application = serve.deploy(CHAT)
    application.add(await slow_chat())
    await serve.router(discovery_interval_s=0.1)
    await asyncio.sleep(1)
    assert application.called == ["wake"]
    application.add(await slow_chat())
    await asyncio.sleep(1)
    assert application.called == ["wake", "wake"]


async def test_what_runs_is_learnt_again_after_any_answer_of_the_controller(serve):
    async with http_of(await serve.router(discovery_interval_s=2)) as http:
        assert (await ask(http)).status_code == 503
        for error in (RayError("It restarts."), KeyError("applications"), ValueError(CANARY)):
            serve.error, asked = error, serve.asked
            await asyncio.sleep(11)
            assert asked + 5 <= serve.asked <= asked + 6
        serve.error = None
        serve.deploy(CHAT, await slow_chat())
        await asyncio.sleep(2)
        assert (await ask(http)).status_code == 200
        serve.error = RayError("It restarts.")
        await asyncio.sleep(10)
        assert (await ask(http)).status_code == 200  # what was known last still serves
        serve.error = None
        del serve.applications[CHAT]
        await asyncio.sleep(2)
        assert code_of(await ask(http)) == "model_not_deployed"


@pytest.mark.parametrize("kind", ["stream", "embeddings"])
async def test_a_model_that_answers_is_up_though_the_controller_was_not_asked_since(serve, kind):
    application = await deploy(serve, kind, 7)
    async with http_of(await serve.router(discovery_interval_s=5)) as http:
        first = asyncio.create_task(ask_for(http, kind))
        await asyncio.sleep(1)
        application.state = "STARTING"
        await asyncio.sleep(5)
        assert code_of(await ask_for(http, kind)) == "model_starting"
        await asyncio.sleep(2)
        second = asyncio.create_task(ask_for(http, kind))
        assert (await first).status_code == (await second).status_code == 200


async def test_what_is_learnt_is_written_down_and_what_says_nothing_any_more_is_taken_off_the_board(serve):
    application = serve.deploy(CHAT, await slow_chat(), await slow_chat())
    name = application.replicas[0].name
    started = {"replica": name, "process_started": 3.5, "seconds": {"load": 30.0}}
    serve.board.put(f"cold_start/{CHAT}/vllm-cpu", started)
    serve.board.put("failure/gone", {"cause": "It broke.", "remedy": "Mend it.", "at": 1.0})
    router = await serve.router()
    await asyncio.sleep(3)  # it has looked again since
    states = {state: serve.meter.total(STATE, CHAT, state) for state in ("ready", "loading", "failed")}
    assert states == {"ready": 1, "loading": 0, "failed": 0}
    assert serve.meter.total(REPLICAS, CHAT) == 2
    assert serve.meter.total(COLD_START, CHAT, "vllm-cpu", "load") == 30
    assert serve.meter.total(COLD_START, CHAT, "vllm-cpu", "schedule") == 2.5
    key = serve.board.facts[DIGESTS]["key"]
    assert set(serve.board.facts) == {f"cold_start/{CHAT}/vllm-cpu", DIGESTS}
    assert router.state.services.suspects._key == bytes.fromhex(key)


async def test_a_router_that_begins_without_its_controller_does_not_begin(serve):
    serve.error = RayError("No controller.")
    with pytest.raises(RayError):
        await serve.router()


# What the router's arguments do


async def test_the_limits_of_the_routers_arguments_hold(serve):
    serve.deploy(CHAT, await slow_chat(4))
    async with http_of(await serve.router(body_limit_mib=0.01, deadline_s=7, keep_alive_s=3)) as http:
        assert (await ask(http, text="a" * 9_000)).status_code == 200
        assert (await ask(http, text="a" * 11_000)).status_code == 413
        began = now()
        late = await ask(http, stream=True)
        assert now() - began == pytest.approx(7)
        assert late.text.startswith(": waiting\n\ndata: ")
        assert code_of(late) == "deadline_exceeded"


async def test_only_so_many_wait_as_the_arguments_say(serve):
    serve.deploy(CHAT, lowest=0)
    async with http_of(await serve.router(most_waiting=2, deadline_s=20)) as http:
        waiting = [asyncio.create_task(ask(http)) for _ in range(2)]
        await asyncio.sleep(1)
        assert code_of(await ask(http)) == "model_starting"
        assert [(await one).status_code for one in waiting] == [504, 504]


@pytest.mark.parametrize("links", [True, False])
async def test_links_are_given_where_the_arguments_say_so(serve, tmp_path, links):
    serve.deploy(DOODLE, await image_server())
    body = {"model": DOODLE, "prompt": "red", "steps": 1, "response_format": "url"}
    async with http_of(await serve.router(media_folder=tmp_path, media_links=links)) as http:
        answer = await http.post("/v1/images/generations", json=body)
        assert answer.status_code == (200 if links else 400)
        if links:
            assert (await http.get(answer.json()["data"][0]["url"])).content.startswith(b"\x89PNG")


async def test_promises_of_the_arguments_are_kept(serve):
    """What writes ten tokens a second leaves room for a few within the promise, and for everybody where there is
    none."""
    for promises, refusals in ((None, False), (PROFILE, True)):
        serve.deploy(CHAT, paced(await slow_chat(0.1), per_width=0.1))
        async with http_of(await serve.router(promises=promises)) as http:
            answers = await asyncio.gather(*(ask(http, stream=True) for _ in range(40)))
        refused = [one for one in answers if one.status_code == 429]
        assert bool(refused) is refusals
        assert {code_of(one) for one in refused} <= {"too_busy"}


async def test_an_estimate_is_what_a_replica_tells_if_it_tells_soon(serve):
    application = serve.deploy(CHAT, await slow_chat(0.1))
    async with http_of(await serve.router(promises=PROFILE)) as http:
        inside = asyncio.create_task(ask(http, text="word " * 20))
        await asyncio.sleep(0.5)
        told = (await http.post("/v1/estimate", json=chat(stream=True))).json()
        await inside
        (replica,) = application.replicas
        replica.goes_on.clear()
        began = now()
        untold = (await http.post("/v1/estimate", json=chat(stream=True))).json()
        assert now() - began == pytest.approx(2)
        replica.goes_on.set()
    assert told["load"]["requests"] == 1
    assert told["time_per_output_token_s"] == pytest.approx(0.1, rel=0.2)
    assert (told["admitted"], untold["admitted"]) == (True, True)
    assert (untold["load"]["requests"], untold["duration_s"], untold["alone"]["duration_s"]) == (None, None, None)


# What is told of a request


@pytest.mark.parametrize("stream", [False, True])
async def test_server_timing_tells_router_queue_and_engine(serve, stream):
    serve.deploy(CHAT, await slow_chat(0.5), places=1)
    async with http_of(await serve.router()) as http:
        first = asyncio.create_task(ask(http))
        await asyncio.sleep(0.25)
        second = await ask(http, stream=stream)
        parts = {
            name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", second.headers["server-timing"])
        }
        assert (await first).status_code == 200
    # 1250 ms until the first has its three tokens; then one token until a stream begins, or all three
    assert parts == {"router": 0, "queue": pytest.approx(1250, abs=0.02), "engine": 500 if stream else 1500}


async def test_one_request_is_followed_from_the_edge_to_the_engine(serve, caplog):
    caplog.set_level(logging.INFO, "ray.serve.access")
    serve.deploy(CHAT, await slow_chat(0.5))
    async with http_of(await serve.router()) as http:
        await ask(http, stream=True, headers={"x-request-id": "follow-me-1"})
    call, request = [one for one in caplog.records if getattr(one, "request_id", "") == "follow-me-1"]
    assert (call.event, call.model, call.method, call.outcome, call.engine_ms) == ("call", CHAT, "chat", "ok", 1500)
    assert (request.event, request.status, request.completion_tokens) == ("request", 200, 3)
    assert (request.engine_ms, request.router_ms, request.total_ms) == (1500, 0, 1500)


async def test_what_embeddings_took_and_used_comes_back_with_them(serve, caplog):
    caplog.set_level(logging.INFO, "ray.serve.access")
    await deploy(serve, "embeddings", 2)
    async with http_of(await serve.router()) as http:
        answer = await ask_for(http, "embeddings")
    used = answer.json()["usage"]["prompt_tokens"]
    (request,) = [one for one in caplog.records if getattr(one, "event", "") == "request"]
    assert (request.engine_ms, request.queue_ms, request.prompt_tokens) == (2000, 0, used)
    assert used > 2


async def test_no_text_of_a_request_is_in_any_log(serve, caplog):
    caplog.set_level(logging.DEBUG)
    server = await slow_chat()
    serve.deploy(CHAT, server)
    serve.deploy(EMBEDDINGS, await slow_embeddings())
    serve.deploy(DOODLE, await image_server())
    said = [{"role": "user", "content": CANARY}]
    bodies = [
        ("/v1/chat/completions", {"model": CHAT, "messages": said}, 200),
        ("/v1/chat/completions", {"model": CHAT, "messages": said, "stream": True}, 200),
        ("/v1/chat/completions", {"model": CHAT, "messages": [{"role": CANARY, "content": "x"}]}, 400),
        ("/v1/chat/completions", {"model": CHAT, "messages": said, CANARY: 1}, 400),
        ("/v1/chat/completions", {"model": CHAT, "messages": [{"role": "user", "content": f"{CANARY} " * 9000}]}, 400),
        ("/v1/completions", {"model": CHAT, "prompt": CANARY, "max_tokens": 2, "stream": True}, 200),
        ("/v1/completions", {"model": CHAT, "prompt": "x", "logit_bias": {CANARY: 1}}, 400),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": CANARY}, 200),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": [f"{CANARY} " * 500]}, 400),
        ("/v1/embeddings", {"model": CANARY, "input": "x"}, 404),
        ("/v1/images/generations", {"model": DOODLE, "prompt": CANARY, "steps": 1}, 200),
        ("/v1/images/generations", {"model": DOODLE, "prompt": "x", "scheduler": CANARY}, 400),
        ("/tokenize", {"model": CHAT, "prompt": CANARY}, 200),
        ("/tokenize", {"model": CHAT, "messages": [{"role": "tool", "content": CANARY}]}, 200),
        ("/v1/estimate", {"model": CHAT, "messages": said}, 200),
    ]

    async def breaks(request):
        yield b'data: {"choices":[{"index":0}]}\n\n'
        raise RuntimeError(f"cannot read {request.body}")

    async with http_of(await serve.router()) as http:
        for path, body, status in bodies:
            answer = await http.post(path, json=body)
            assert answer.status_code == status, (path, answer.text)
        raw = f'{{"model": {CANARY}'.encode()
        answer = await http.post("/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        server.engine.chat = breaks
        for stream in (False, True):
            assert code_of(await ask(http, stream, CANARY)) in ("engine_failed", "internal_error")
    formatter = logging.Formatter()
    # A line of the logger httpx is the test's own client's.
    written = [formatter.format(one) + str(one.__dict__) for one in caplog.records if not one.name.startswith("http")]
    assert len(written) >= 2 * len(bodies)  # of the router, and of the replica where it was asked
    assert any("RuntimeError" in line for line in written)
    assert [line for line in written if CANARY in line] == []


# Pictures


@pytest.mark.parametrize("different", [MOST_GROUPS, MOST_GROUPS + 1])
async def test_fifty_at_once_of_mixed_sizes_all_get_pictures(serve, different):
    """They are all there before the first step is over. Of more sizes than take turns, the last waits for one to be
    done with, and who came after it too."""
    server = await image_server()
    step, make, go, arrived = server.engine.step, server.denoising.make, threading.Event(), []

    def held(batch):
        assert go.wait(patience())
        step(batch)

    async def counted(picture, *rest):
        arrived.append(picture)
        if len(arrived) == 75:
            go.set()
        return await make(picture, *rest)

    server.engine.step, server.denoising.make = held, counted
    application = serve.deploy(DOODLE, server, places=50)
    sizes = ["64x64", "32x32", "96x64", "64x96", "128x128"][:different]

    async def one(http, number):
        body = {"model": DOODLE, "prompt": "red", "size": sizes[number % different], "n": 1 + number % 2, "steps": 4}
        answer = await http.post("/v1/images/generations", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["size"] == body["size"]
        return len(answer.json()["data"])

    async with http_of(await serve.router()) as http:
        made = await asyncio.gather(*(one(http, number) for number in range(50)))
    assert made == [1, 2] * 25
    assert sum(server.engine.batches) == 75 * 4  # each of them took its four steps
    if different <= MOST_GROUPS:
        assert len(server.engine.batches) <= 75  # and shared them with three others, on average
    assert not application.replicas[0].calls
