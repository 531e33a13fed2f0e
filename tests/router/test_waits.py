"""A client that waits for a model which is not up yet, and one that does not. On virtual time."""

import asyncio

import pytest
from local_dispatcher import LocalDispatcher
from patience import until
from virtual_time import now

from deployments.router.calling import LOOK_S
from deployments.router.dispatch import ModelState, State
from deployments.router.services import WaitingRoom

READY = ModelState(State.READY, "fake", replicas=1)
LOADING = ModelState(State.LOADING, "fake", phase="load", phase_since=1.0, fraction=0.4, retry_after_s=12.2)


@pytest.fixture
def body(chat_model) -> dict:
    return {"model": chat_model, "messages": [{"role": "user", "content": "one two three"}]}


@pytest.fixture
def starting(chat_model, chat) -> LocalDispatcher:
    return LocalDispatcher({chat_model: chat}, {chat_model: LOADING})


async def become_ready(dispatcher, model, after=0.3):
    await asyncio.sleep(after)
    dispatcher.become(model, READY)


async def test_a_client_that_waits_gets_its_answer_when_the_model_is_up(router, starting, body, chat_model):
    async with router(dispatcher=starting) as http, asyncio.TaskGroup() as group:
        group.create_task(become_ready(starting, chat_model))
        response = await http.post("/v1/chat/completions", json=body, headers={"prefer": "wait=30"})
    assert response.status_code == 200
    wait = float(response.headers["server-timing"].split("wait;dur=")[1])
    assert 300 <= wait <= 300 + LOOK_S * 1000


async def test_a_client_that_does_not_say_is_refused_at_once(router, starting, body, assert_error):
    began = now()
    async with router(dispatcher=starting) as http:
        response = await http.post("/v1/chat/completions", json=body)
    error = assert_error(response, 503, "model_starting")
    assert now() == began
    assert "Prefer: wait=" in error["message"]
    assert response.headers["retry-after"] == "13"


async def test_a_client_waits_no_longer_than_it_said(router, starting, body, assert_error):
    began = now()
    async with router(dispatcher=starting) as http:
        response = await http.post("/v1/chat/completions", json=body, headers={"prefer": "wait=0.3"})
    assert_error(response, 503, "model_starting")
    assert now() - began == pytest.approx(0.3)


@pytest.mark.parametrize("prefer", ["wait=abc", "wait=-1", "wait=", "respond-async, wait=1e9"])
async def test_a_wait_that_is_no_number_is_refused(router, starting, body, assert_error, prefer):
    async with router(dispatcher=starting) as http:
        response = await http.post("/v1/chat/completions", json=body, headers={"prefer": prefer})
    assert assert_error(response, 400)["param"] == "Prefer"


async def test_a_model_that_sleeps_is_woken_even_for_a_client_that_does_not_wait(
    router, chat_model, chat, body, assert_error
):
    asleep = ModelState(State.SCALED_TO_ZERO, "fake", retry_after_s=4)

    class Sleeping(LocalDispatcher):
        woken = 0

        def wake(self, model):
            self.woken += 1

    dispatcher = Sleeping({chat_model: chat}, {chat_model: asleep})
    async with router(dispatcher=dispatcher) as http:
        response = await http.post("/v1/chat/completions", json=body, headers={"prefer": "wait=0"})
    assert_error(response, 503, "model_starting")
    assert response.headers["retry-after"] == "4"
    assert dispatcher.woken == 1


async def test_a_model_that_sleeps_by_its_operators_wish_is_waited_for(router, starting, body, chat_model):
    starting.become(chat_model, ModelState(State.LOADING, "fake", wakes_on_request=True))
    async with router(dispatcher=starting) as http, asyncio.TaskGroup() as group:
        group.create_task(become_ready(starting, chat_model))
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200


@pytest.mark.parametrize(("state", "code"), [(State.FAILED, "model_failed"), (State.DRAINING, "model_draining")])
async def test_what_will_not_come_up_is_not_waited_for(
    *, router, starting, body, chat_model, assert_error, state, code
):
    starting.become(chat_model, ModelState(state, "fake"))
    began = now()
    async with router(dispatcher=starting) as http:
        response = await http.post("/v1/chat/completions", json=body, headers={"prefer": "wait=30"})
    assert_error(response, 503, code)
    assert now() == began


async def test_a_wait_ends_at_the_deadline(router, starting, body, assert_error):
    began = now()
    async with router(dispatcher=starting, deadline_s=0.3) as http:
        response = await http.post("/v1/chat/completions", json=body, headers={"prefer": "wait=60"})
    assert_error(response, 504, "deadline_exceeded")
    assert now() - began == pytest.approx(0.3)


async def test_only_so_many_wait(router, starting, body, chat_model, assert_error):
    room = WaitingRoom(1)
    headers = {"prefer": "wait=30"}
    async with router(dispatcher=starting, waiting=room) as http, asyncio.TaskGroup() as group:
        first = group.create_task(http.post("/v1/chat/completions", json=body, headers=headers))
        await until(lambda: room.inside, "the first waits")
        refused = await http.post("/v1/chat/completions", json=body, headers=headers)
        assert_error(refused, 503, "model_starting")
        assert refused.headers["retry-after"] == "10"
        starting.become(chat_model, READY)
    assert first.result().status_code == 200
    assert room.inside == 0


async def test_a_stream_that_waits_is_kept_alive(router, starting, body, chat_model):
    async with router(dispatcher=starting, keep_alive_s=0.11) as http, asyncio.TaskGroup() as group:
        group.create_task(become_ready(starting, chat_model, after=0.5))
        response = await http.post("/v1/chat/completions", json={**body, "stream": True}, headers={"prefer": "wait=30"})
    assert response.status_code == 200
    comments, events = response.text.split("data: ", 1)
    assert 0.5 // 0.11 <= comments.count(": waiting\n\n") <= (0.5 + LOOK_S) // 0.11
    assert "three" in events
    assert events.endswith("data: [DONE]\n\n")


async def test_a_refusal_after_a_keep_alive_is_an_event(router, starting, body):
    async with router(dispatcher=starting, keep_alive_s=0.1) as http:
        response = await http.post(
            "/v1/chat/completions", json={**body, "stream": True}, headers={"prefer": "wait=0.4"}
        )
    assert response.status_code == 200
    assert response.text.startswith(": waiting\n\n")
    assert '"code":"model_starting"' in response.text.split("\n\n")[-2]


async def test_the_official_client_reads_a_stream_that_was_kept_alive(client, services, body, chat_model):
    object.__setattr__(services, "keep_alive_s", 0.05)
    services.dispatcher.become(chat_model, LOADING)
    waking = asyncio.create_task(become_ready(services.dispatcher, chat_model, after=0.3))
    stream = await client.chat.completions.create(**body, stream=True, extra_headers={"prefer": "wait=30"})
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    await waking
    assert text == "one two three"


async def test_readyz_and_models_tell_how_far_it_is(router, starting, chat_model):
    starting.become(chat_model, LOADING)
    async with router(dispatcher=starting) as http:
        ready = (await http.get("/readyz")).json()["models"][chat_model]
        card = (await http.get(f"/v1/models/{chat_model}")).json()
    told = {"state": "loading", "phase": "load", "since": 1.0, "fraction": 0.4, "retry_after_s": 12.2}
    assert {name: ready[name] for name in told} == told
    assert {name: card[name] for name in told} == told
