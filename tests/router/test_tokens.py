import pytest
from replicas import chat_server

TEXT = "one two three"


@pytest.fixture(params=["chat_model", "embedding_model"])
def model(request) -> str:
    return request.getfixturevalue(request.param)


async def test_tokens_put_back_together_are_the_text(http, model):
    response = await http.post("/tokenize", json={"model": model, "prompt": TEXT})
    assert response.status_code == 200
    document = response.json()
    assert document["count"] == len(document["tokens"]) == 3
    assert document["max_model_len"] == {"smollm2-135m-instruct": 8192, "all-minilm-l6-v2": 256}[model]
    assert document["token_strs"] is None
    response = await http.post("/detokenize", json={"model": model, "tokens": document["tokens"]})
    assert response.json() == {"prompt": TEXT}


async def test_token_strings_are_given_when_asked_for(http, model):
    response = await http.post("/tokenize", json={"model": model, "prompt": TEXT, "return_token_strs": True})
    assert response.json()["token_strs"] == ["one", "two", "three"]


async def test_a_chat_is_tokenized(http, chat_model):
    messages = [{"role": "system", "content": "one"}, {"role": "user", "content": "two three"}]
    response = await http.post("/tokenize", json={"model": chat_model, "messages": messages})
    assert response.json()["count"] == 3


async def test_the_developer_role_is_system_for_the_tokenizer_as_it_is_for_chat(router, chat_model):
    seen = []

    class Tokenizer:
        async def tokenize(self, request):
            seen.append(request)
            raise NotImplementedError

    async with router({chat_model: await chat_server(Tokenizer())}) as http:
        messages = [{"role": "developer", "content": "one"}]
        await http.post("/tokenize", json={"model": chat_model, "messages": messages})
    assert seen[0].messages == ({"role": "system", "content": "one"},)


async def test_an_embedding_model_has_no_chat_to_tokenize(http, embedding_model, assert_error):
    messages = [{"role": "user", "content": "one"}]
    response = await http.post("/tokenize", json={"model": embedding_model, "messages": messages})
    assert assert_error(response, 400)["param"] == "messages"


@pytest.mark.parametrize("wrong", [{}, {"prompt": "one", "messages": [{"role": "user", "content": "one"}]}])
async def test_either_a_prompt_or_messages_are_needed(http, model, assert_error, wrong):
    error = assert_error(await http.post("/tokenize", json={"model": model} | wrong), 400)
    assert "either prompt or messages" in error["message"]


@pytest.mark.parametrize("tokens", [[1 << 30], [-1], ["one"], [1.5], "one"])
async def test_tokens_that_do_not_exist_are_refused(http, model, assert_error, tokens):
    error = assert_error(await http.post("/detokenize", json={"model": model, "tokens": tokens}), 400)
    assert error["param"].startswith("tokens")
