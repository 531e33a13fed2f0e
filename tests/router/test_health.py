import pytest
from local_dispatcher import LocalDispatcher

from deployments.router.dispatch import ModelState, State


async def test_the_router_is_alive_whatever_its_models_do(router, chat_model):
    async with router(states={chat_model: ModelState(State.FAILED)}) as http:
        response = await http.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_ready_when_every_deployed_model_takes_requests(router, chat_model, embedding_model):
    async with router(states={embedding_model: ModelState(State.SCALED_TO_ZERO, "onnx")}) as http:
        response = await http.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {
        "ready": True,
        "age_s": 0.0,
        "models": {
            chat_model: {"state": "ready", "variant": "fake", "release": None, "replicas": 1},
            embedding_model: {"state": "scaled_to_zero", "variant": "onnx", "release": None, "replicas": 0},
        },
    }


@pytest.mark.parametrize("state", [State.LOADING, State.FAILED, State.NOT_DEPLOYED])
async def test_not_ready_while_a_model_takes_no_requests(router, chat_model, embedding_model, state):
    async with router(states={chat_model: ModelState(state, "vllm-cpu", cause="out of memory")}) as http:
        response = await http.get("/readyz")
    assert response.status_code == 503
    document = response.json()
    assert document["ready"] is False
    assert document["models"][chat_model]["state"] == state
    assert document["models"][chat_model]["cause"] == "out of memory"
    assert document["models"][embedding_model]["state"] == "ready"


async def test_who_wakes_a_model_does_not_make_the_router_unready(router, chat_model):
    async with router(states={chat_model: ModelState(State.LOADING, wakes_on_request=True)}) as http:
        assert (await http.get("/readyz")).status_code == 200


async def test_not_ready_before_any_model_is_known(router):
    async with router(dispatcher=LocalDispatcher({})) as http:
        response = await http.get("/readyz")
    assert (response.status_code, response.json()) == (503, {"ready": False, "age_s": 0.0, "models": {}})
