import openai
import pytest

from deployments.router.dispatch import ModelState, State

STATES = {
    "llama-3.1-8b-instruct": ModelState(State.LOADING, "vllm", 1_700_000_000.9),
    "mistral-7b-instruct-v0.3": ModelState(State.FAILED, "vllm", 1_700_000_000, cause="no GPU"),
    "bge-m3": ModelState(State.SCALED_TO_ZERO, "torch-gpu", 1_700_000_000),
}


async def test_the_official_client_lists_the_models(client, chat_model, embedding_model):
    models = [model async for model in client.models.list()]
    assert [model.id for model in models] == [chat_model, embedding_model]
    assert {model.object for model in models} == {"model"}
    assert models[0].owned_by == "HuggingFaceTB"


async def test_the_list_has_every_deployed_model_and_its_state(router, chat_model, embedding_model):
    async with router(states=STATES) as http:
        cards = (await http.get("/v1/models")).json()["data"]
    assert {card["id"]: card["state"] for card in cards} == {
        chat_model: "ready",
        embedding_model: "ready",
        "llama-3.1-8b-instruct": "loading",
        "mistral-7b-instruct-v0.3": "failed",
        "bge-m3": "scaled_to_zero",
    }


async def test_a_card_says_what_a_client_needs_to_choose(router, embedding_model):
    async with router(states=STATES) as http:
        card = (await http.get(f"/v1/models/{embedding_model}")).json()
        loading = (await http.get("/v1/models/llama-3.1-8b-instruct")).json()
    assert card["task"] == "embeddings"
    assert card["limits"] == {
        "context_tokens": 256,
        "inputs": 2048,
        "dimensions": {"native": 384, "smallest": 32},
    }
    assert card["licence"] == "Apache-2.0"
    assert loading["created"] == 1_700_000_000
    assert loading["variant"] == "vllm"
    assert loading["capabilities"] == sorted(["streaming", "completions", "tools", "json_schema", "logprobs"])


async def test_a_model_of_the_catalog_that_is_not_deployed_is_described(client):
    model = await client.models.retrieve("bge-m3")
    assert model.id == "bge-m3"
    assert model.created == 0
    assert model.model_extra["state"] == "not_deployed"
    assert model.model_extra["variant"] is None


@pytest.mark.parametrize("name", ["gpt-5", "a b", "all-minilm-l6-v2%0a", "../v1", "\u00e9"])
async def test_an_unknown_model_is_not_found(client, name):
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve(name)
