"""Promises at the endpoint: refusals, deadlines, priorities, and what a request would take."""

import asyncio
import math
import re

import pytest
from clients import http_client
from local_dispatcher import LocalDispatcher
from patience import until
from replicas import chat_server, embedding_server, paced
from virtual_time import now

from deployments.metering import MemoryMeter
from deployments.router.application import create_application
from deployments.router.dispatch import ModelState, Scale, State
from deployments.router.promises import Asker, Promises
from deployments.router.services import Services
from deployments.telemetry import ERRORS
from medley.monitoring.objectives import server_errors
from models.catalog import load_catalog
from models.slo import Targets

PROMISE = Targets(time_to_first_token_s=0.5, time_per_output_token_s=0.1, duration_s=1.0, good=0.99, availability=0.999)
QUESTION = [{"role": "user", "content": "one two three four"}]


@pytest.fixture
def promises(chat_model, embedding_model) -> Promises:
    return Promises({chat_model: PROMISE, embedding_model: PROMISE})


@pytest.fixture
def services(services, promises) -> Services:
    return Services(load_catalog(), services.dispatcher, promises=promises)


def held(server) -> asyncio.Event:
    """The server of embeddings answers once this is set."""
    release, embed = asyncio.Event(), server.embed

    async def waiting(request):
        await release.wait()
        return await embed(request)

    server.embed = waiting
    return release


async def ask(http, model, text="hi", **headers):
    return await http.post("/v1/embeddings", json={"model": model, "input": text}, headers=headers)


def test_what_is_promised_are_the_terms(promises, chat_model):
    asker = Asker("10.0.0.1", batch=True, deadline_s=30.0)
    streamed, whole = (promises.terms(chat_model, asker, stream) for stream in (True, False))
    assert (streamed.first_s, streamed.piece_s, streamed.whole_s, streamed.deadline_s) == (0.5, 0.1, 1.0, 30.0)
    assert (whole.first_s, whole.piece_s, whole.whole_s, whole.deadline_s) == (math.inf, math.inf, 1.0, 30.0)
    assert (streamed.client, streamed.patient, streamed.router) == ("10.0.0.1", True, promises.router)
    assert promises.terms(f"{chat_model}@int8", asker, stream=True).first_s == 0.5
    assert promises.terms("another", Asker(), stream=True).promised is False


async def test_a_request_too_many_gets_429_with_the_time_to_come_back(http, services, embedding_model, embeddings):
    paced(embeddings, 0.4)  # a batch takes 0.4 s, and who comes waits for half of another one
    release, body = held(embeddings), {"model": embedding_model, "input": ["hi"] * 64}
    inside = [asyncio.create_task(http.post("/v1/embeddings", json=body))]
    await until(lambda: len(embeddings.admission.inside) == 1, "one is inside")
    refused = await http.post("/v1/embeddings", json=body)
    estimate = (await http.post("/v1/estimate", json=body)).json()
    release.set()
    assert [answer.status_code for answer in await asyncio.gather(*inside)] == [200]
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("too_busy", "rate_limit_error")
    assert refused.headers["retry-after"] == "1"
    assert f"{embedding_model} serves as many" in error["message"]
    assert "Try again in 1 s." in error["message"]
    assert (estimate["admitted"], estimate["error"]["code"]) == (False, "too_busy")
    assert estimate["retry_after_s"] >= 1
    assert estimate["load"]["requests"] == 1
    assert estimate["load"]["device_seconds"] > 0
    assert (await http.post("/v1/embeddings", json=body)).status_code == 200
    assert services.promises.refused_by(embedding_model).turns == {}


async def test_who_comes_again_is_told_to_the_replica_and_asked_once(http, embedding_model, embeddings):
    paced(embeddings, 0.4)
    release, terms, enter = held(embeddings), [], embeddings.admission.enter

    def noted(work, terms_of, *others):
        terms.append(terms_of)
        return enter(work, terms_of, *others)

    embeddings.admission.enter = noted
    body = {"model": embedding_model, "input": ["hi"] * 64}
    first = asyncio.create_task(http.post("/v1/embeddings", json=body))
    await until(lambda: embeddings.admission.inside, "one is inside")
    assert (await http.post("/v1/embeddings", json=body)).status_code == 429
    await asyncio.sleep(0.6)
    release.set()
    await first
    assert (await http.post("/v1/embeddings", json=body)).status_code == 200
    assert (await http.post("/v1/embeddings", json=body)).status_code == 200
    assert [(one.again, one.returns) for one in terms] == [(False, False)] * 2 + [(True, True), (False, False)]


async def test_who_has_waited_for_room_is_not_refused(http, services, embedding_model, embeddings):
    """It came when it was told to. Room was predicted to come, and does not."""
    paced(embeddings, 0.4)
    release, texts = held(embeddings), ["hi"] * 64
    first = asyncio.create_task(ask(http, embedding_model, texts))
    await until(lambda: embeddings.admission.inside, "one is inside")
    assert (await ask(http, embedding_model, texts)).status_code == 429
    await asyncio.sleep(0.6)
    second = asyncio.create_task(ask(http, embedding_model, texts))
    await until(lambda: services.waiting.inside, "the second waits for room")
    await until(lambda: len(embeddings.admission.inside) == 2, "the second is let in")
    release.set()
    assert [(await one).status_code for one in (first, second)] == [200, 200]


@pytest.mark.parametrize(
    ("scale", "code", "says"),
    [
        (Scale(wanted=1, most=2), "too_busy", ""),
        (Scale(wanted=1, most=1), "at_capacity", ""),
        (Scale(wanted=2, most=2, unplaced=1), "no_room", "The cluster has no room for another replica"),
    ],
)
async def test_a_refusal_says_whether_the_model_could_grow(
    *, http, services, embedding_model, embeddings, scale, code, says
):
    services.dispatcher.become(embedding_model, ModelState(State.READY, "fake", replicas=1, scale=scale))
    paced(embeddings, 0.4)
    release, texts = held(embeddings), ["hi"] * 64
    first = asyncio.create_task(ask(http, embedding_model, texts))
    await until(lambda: embeddings.admission.inside, "one is inside")
    refused = await ask(http, embedding_model, texts)
    release.set()
    await first
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, code)
    assert says in refused.json()["error"]["message"]


async def test_a_request_waits_for_a_replica_that_is_up_in_time(http, services, embedding_model, embeddings):
    scale = Scale(wanted=2, most=2, starting=1, ready_in_s=0.4)
    services.dispatcher.become(embedding_model, ModelState(State.READY, "fake", replicas=1, scale=scale))
    paced(embeddings, 0.4)
    release, texts = held(embeddings), ["hi"] * 64
    first = asyncio.create_task(ask(http, embedding_model, texts))
    await until(lambda: embeddings.admission.inside, "one is inside")
    second = asyncio.create_task(ask(http, embedding_model, texts))
    await until(lambda: services.waiting.inside, "the second waits for a replica")
    services.dispatcher.servers[embedding_model] = await embedding_server()
    services.dispatcher.become(embedding_model, ModelState(State.READY, "fake", replicas=2))
    assert (await second).status_code == 200
    release.set()
    assert (await first).status_code == 200


async def test_what_no_replica_could_keep_is_refused_for_good(http, chat, chat_model):
    paced(chat, per_read=0.1)
    body = {"model": chat_model, "messages": [{"role": "user", "content": "word " * 100}], "stream": True}
    refused = await http.post("/v1/chat/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "beyond_promise")
    assert "retry-after" not in refused.headers
    assert "Trying again does not help" in refused.json()["error"]["message"]
    estimate = (await http.post("/v1/estimate", json=body)).json()
    assert (estimate["admitted"], estimate["promise_kept"], estimate["retry_after_s"]) == (False, False, None)
    assert estimate["error"]["code"] == "beyond_promise"
    assert estimate["alone"]["time_to_first_token_s"] > 0.5
    batch = await http.post("/v1/chat/completions", json=body, headers={"Priority": "u=5"})
    assert batch.status_code == 200


async def test_only_what_may_be_too_long_for_the_model_is_counted_before_it_is_refused(http, chat, chat_model):
    """A busy engine takes its time to count, and a refusal should not."""
    counted, tokenize, limit = [], chat.engine.tokenize, chat.spec.limits.context_tokens

    async def count(asked):
        counted.append(asked)
        return await tokenize(asked)

    chat.engine.tokenize = count
    paced(chat, per_read=0.1)
    body = {"model": chat_model, "messages": [{"role": "user", "content": "word " * 100}], "max_tokens": 9}
    assert (await http.post("/v1/chat/completions", json=body)).json()["error"]["code"] == "beyond_promise"
    assert not counted
    body["messages"][0]["content"] = "é" * limit  # two bytes each: it may be more tokens than characters
    refused = await http.post("/v1/chat/completions", json=body)
    assert len(counted) == 1
    assert refused.json()["error"]["code"] in {"beyond_promise", "context_length_exceeded"}


async def test_a_deadline_stops_what_takes_longer(http, embedding_model, embeddings):
    async def never(request):
        await asyncio.sleep(60)

    embeddings.embed = never
    body = {"model": embedding_model, "input": "hi"}
    began = now()
    late = await http.post("/v1/embeddings", json=body, headers={"X-Deadline": "0.2"})
    assert now() - began == pytest.approx(0.2)
    assert late.status_code == 504
    assert late.json()["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize(
    ("headers", "state", "status", "code", "ours"),
    [
        ({"X-Deadline": "0.001"}, State.READY, 504, "client_deadline_exceeded", False),
        ({"X-Deadline": "0.001"}, State.SCALED_TO_ZERO, 504, "client_deadline_exceeded", False),
        ({"X-Deadline": "9000"}, State.READY, 504, "deadline_exceeded", True),  # the operator's is shorter
        ({}, State.READY, 504, "deadline_exceeded", True),
        ({"Prefer": "wait=0"}, State.SCALED_TO_ZERO, 503, "client_model_starting", False),
        ({"Prefer": "wait=1"}, State.SCALED_TO_ZERO, 503, "client_model_starting", False),
        ({"Prefer": "wait=1"}, State.LOADING, 503, "model_starting", True),  # it would not have been waited for
        ({}, State.LOADING, 503, "model_starting", True),
    ],
)
async def test_what_the_client_chose_breaks_no_promise(
    *, services, embedding_model, embeddings, headers, state, status, code, ours
):
    class Asleep(LocalDispatcher):
        def wake(self, model):
            pass

    async def never(request):
        await asyncio.sleep(60)

    embeddings.embed = never
    states = {} if state is State.READY else {embedding_model: ModelState(state, "fake")}
    meter = MemoryMeter()
    made = Services(load_catalog(), Asleep({embedding_model: embeddings}, states), meter=meter, deadline_s=2)
    async with http_client(create_application(made)) as http:
        answer = await http.post("/v1/embeddings", json={"model": embedding_model, "input": "hi"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code.removeprefix("client_"))
    assert meter.total(ERRORS, embedding_model, "embeddings", code) == 1
    assert bool(re.fullmatch(server_errors(), code)) is ours


@pytest.mark.parametrize("deadline", ["soon", "-1", "0", "1e3", "", "9" * 30])
async def test_a_deadline_that_is_no_number_is_refused(http, embedding_model, deadline):
    body = {"model": embedding_model, "input": "hi"}
    for path in ("/v1/embeddings", "/v1/estimate"):
        answer = await http.post(path, json=body, headers={"X-Deadline": deadline})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "X-Deadline"


async def test_an_estimate_before_anything_is_known_says_so(services, chat_model):
    chat = await chat_server()
    chat.admission.pace.seen = 0
    services.dispatcher.servers[chat_model] = chat
    async with http_client(create_application(services)) as http:
        estimate = (await http.post("/v1/estimate", json={"model": chat_model, "messages": QUESTION})).json()
    assert estimate["admitted"] is True
    assert estimate["duration_s"] is estimate["time_to_first_token_s"] is estimate["cost"]["device_seconds"] is None
    assert estimate["observations"] == 0


async def test_an_estimate_of_a_model_that_is_not_up_says_how_long_it_takes(http, services, chat_model):
    services.dispatcher.become(chat_model, ModelState(State.LOADING, "fake", retry_after_s=7.0))
    estimate = (await http.post("/v1/estimate", json={"model": chat_model, "messages": QUESTION})).json()
    assert (estimate["state"], estimate["wait_s"], estimate["duration_s"]) == ("loading", 7.0, None)


async def test_an_estimate_is_of_the_same_body(http, chat, chat_model):
    paced(chat, 0.01, per_width=0.005, per_read=0.001)
    body = {"model": chat_model, "messages": QUESTION, "max_tokens": 51, "stream": True}
    estimate = (await http.post("/v1/estimate", json=body)).json()
    assert estimate["time_to_first_token_s"] == pytest.approx(0.01 + 0.001 * 7, abs=0.01)  # a step at most
    assert estimate["time_per_output_token_s"] == pytest.approx(0.015, rel=0.05)
    assert estimate["duration_s"] == pytest.approx(0.017 + 50 * 0.015, rel=0.05)
    assert estimate["alone"] == {name: estimate[name] for name in estimate["alone"]}
    assert (estimate["admitted"], estimate["promise_kept"], estimate["error"]) == (True, True, None)
    assert estimate["promise"] == {"time_to_first_token_s": 0.5, "time_per_output_token_s": 0.1, "duration_s": 1.0}
    assert estimate["cost"]["device"] == "cpu"
    assert 0 < estimate["cost"]["device_seconds"] < estimate["duration_s"]
    twice = (await http.post("/v1/estimate", json={**body, "n": 2})).json()
    assert twice["cost"]["device_seconds"] > 1.5 * estimate["cost"]["device_seconds"]
    hurried = await http.post("/v1/chat/completions", json=body, headers={"X-Deadline": "0.3"})
    assert hurried.status_code == 200  # nobody else is there: it is tried


@pytest.mark.parametrize(("body", "status"), [({"model": "none"}, 404), ({}, 400), ([], 400), ({"model": 5}, 400)])
async def test_an_estimate_of_a_wrong_body_is_refused(http, body, status):
    answer = await http.post("/v1/estimate", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_looking_up_tokens_takes_no_place(http, chat, chat_model):
    paced(chat, 50)
    answer = await http.post("/tokenize", json={"model": chat_model, "prompt": "hi"})
    assert answer.status_code == 200
    assert chat.admission.demanded(now())["asked"] == 0


@pytest.mark.parametrize(("priority", "patient"), [("", False), ("u=3", False), ("u=6", True)])
async def test_a_replica_is_told_whether_anybody_waits(http, embeddings, embedding_model, priority, patient):
    told, submit = [], embeddings.batcher.submit

    async def noted(tokens, patient, job):
        told.append(patient)
        return await submit(tokens, patient, job)

    embeddings.batcher.submit = noted
    body = {"model": embedding_model, "input": "one"}
    assert (await http.post("/v1/embeddings", json=body, headers={"priority": priority})).status_code == 200
    assert told == [patient]
