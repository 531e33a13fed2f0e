"""Promises at the endpoint: refusals, deadlines, priorities, and what a request would take."""

import asyncio
import re

import pytest
from clients import http_client
from local_dispatcher import LocalDispatcher
from patience import until
from virtual_time import now

from deployments.metering import MemoryMeter
from deployments.router.admission import Admission
from deployments.router.application import create_application
from deployments.router.dispatch import ModelState, State
from deployments.router.services import Services
from deployments.telemetry import ERRORS
from medley.monitoring.objectives import server_errors
from models.catalog import load_catalog
from models.slo import Targets

PROMISE = Targets(time_to_first_token_s=0.5, time_per_output_token_s=0.1, duration_s=1.0, good=0.99, availability=0.999)
QUESTION = [{"role": "user", "content": "one two three four"}]


@pytest.fixture
def services(services, chat_model, embedding_model) -> Services:
    admission = Admission({chat_model: PROMISE, embedding_model: PROMISE})
    return Services(load_catalog(), services.dispatcher, admission=admission)


def slow(services, model, seconds, streams=False):
    """As if each request under way had cost the others so much."""
    predictor = services.admission.load(model).predictor
    for _ in range(5):
        for load in range(1, 9):
            predictor.busy_s.learn(load, seconds)
            if streams:
                predictor.first_s.learn(load, seconds * load)
                predictor.token_s.learn(load, seconds * load / 10)
            else:
                predictor.duration_s.learn(load, seconds * load)


async def test_requests_are_learnt_from(http, services, chat_model, embedding_model):
    for _ in range(9):
        await http.post("/v1/embeddings", json={"model": embedding_model, "input": "hi"})
        body = {"model": chat_model, "messages": QUESTION, "stream": True}
        await http.post("/v1/chat/completions", json=body)
    predictor = services.admission.load(embedding_model).predictor
    assert predictor.duration_s.seen == 9
    predictor = services.admission.load(chat_model).predictor
    assert predictor.first_s.seen == predictor.token_s.seen == 9
    assert services.admission.load(chat_model).in_flight == services.admission.load(embedding_model).in_flight == 0


async def test_a_request_too_many_gets_429_with_the_time_to_come_back(http, services, embedding_model, embeddings):
    slow(services, embedding_model, 0.4)  # two at once take 0.8 s, three 1.2 s
    release = asyncio.Event()
    embed = embeddings.embed

    async def waiting(request):
        await release.wait()
        return await embed(request)

    embeddings.embed = waiting
    body = {"model": embedding_model, "input": "hi"}
    inside = [asyncio.create_task(http.post("/v1/embeddings", json=body)) for _ in range(2)]
    await until(lambda: services.admission.load(embedding_model).in_flight == 2, "two are inside")
    refused = await http.post("/v1/embeddings", json=body)
    estimate = (await http.post("/v1/estimate", json=body)).json()
    release.set()
    assert [answer.status_code for answer in await asyncio.gather(*inside)] == [200, 200]
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("too_busy", "rate_limit_error")
    assert int(refused.headers["retry-after"]) >= 1
    assert estimate["admitted"] is False
    assert estimate["retry_after_s"] >= 1
    assert estimate["load"] == {"requests": 2, "limit": 2}
    assert (await http.post("/v1/embeddings", json=body)).status_code == 200


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


async def test_an_estimate_before_anything_is_known_says_so(http, chat_model):
    estimate = (await http.post("/v1/estimate", json={"model": chat_model, "messages": QUESTION})).json()
    assert estimate["admitted"] is True
    assert estimate["duration_s"] is estimate["time_to_first_token_s"] is estimate["cost"]["device_seconds"] is None
    assert estimate["observations"] == 0


async def test_an_estimate_is_of_the_same_body(http, services, chat_model):
    slow(services, chat_model, 0.1, streams=True)
    body = {"model": chat_model, "messages": QUESTION, "max_tokens": 51, "stream": True}
    estimate = (await http.post("/v1/estimate", json=body)).json()
    assert estimate["time_to_first_token_s"] == pytest.approx(0.1, rel=0.05)
    assert estimate["duration_s"] == pytest.approx(0.1 + 50 * 0.01, rel=0.05)
    assert estimate["cost"]["device"] == "cpu"
    assert estimate["cost"]["device_seconds"] == pytest.approx(0.1)
    hurried = await http.post("/v1/chat/completions", json=body, headers={"X-Deadline": "0.3"})
    assert hurried.status_code == 200  # nobody else is there: it is tried


@pytest.mark.parametrize(("body", "status"), [({"model": "none"}, 404), ({}, 400), ([], 400), ({"model": 5}, 400)])
async def test_an_estimate_of_a_wrong_body_is_refused(http, body, status):
    answer = await http.post("/v1/estimate", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_looking_up_tokens_takes_no_place(http, services, chat_model):
    slow(services, chat_model, 50)
    services.admission.load(chat_model).in_flight = 5
    answer = await http.post("/tokenize", json={"model": chat_model, "prompt": "hi"})
    assert answer.status_code == 200


@pytest.mark.parametrize(("priority", "patient"), [("", False), ("u=3", False), ("u=6", True)])
async def test_a_replica_is_told_whether_anybody_waits(http, embeddings, embedding_model, priority, patient):
    told, submit = [], embeddings.batcher.submit

    async def noted(tokens, patient):
        told.append(patient)
        return await submit(tokens, patient)

    embeddings.batcher.submit = noted
    body = {"model": embedding_model, "input": "one"}
    assert (await http.post("/v1/embeddings", json=body, headers={"priority": priority})).status_code == 200
    assert told == [patient]
