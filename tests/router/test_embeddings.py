import base64

import numpy as np
import openai
import pytest

TEXTS = ["a cat sat", "a dog ran", "one two three four five"]


async def embed(client, model, inputs, **options) -> np.ndarray:
    answer = await client.embeddings.create(model=model, input=inputs, **options)
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


async def test_a_vector_has_length_one_and_the_models_dimensions(client, embedding_model):
    answer = await client.embeddings.create(model=embedding_model, input="a cat sat")
    assert answer.object == "list"
    assert answer.model == embedding_model
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3
    assert len(answer.data[0].embedding) == 384
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1, abs=1e-5)


async def test_base64_and_floats_are_the_same_numbers(http, client, embedding_model):
    body = {"model": embedding_model, "input": TEXTS}
    encoded = (await http.post("/v1/embeddings", json=body | {"encoding_format": "base64"})).json()
    plain = (await http.post("/v1/embeddings", json=body | {"encoding_format": "float"})).json()
    default = (await http.post("/v1/embeddings", json=body)).json()
    floats = np.array([item["embedding"] for item in plain["data"]], dtype=np.float32)
    decoded = [np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in encoded["data"]]
    assert np.array_equal(floats, np.stack(decoded))
    assert plain == default
    # The official client asks for base64 unless told otherwise, and decodes it.
    assert np.array_equal(floats, await embed(client, embedding_model, TEXTS))


async def test_a_batch_gives_what_its_inputs_give_one_by_one(client, embedding_model):
    together = await embed(client, embedding_model, TEXTS)
    alone = [await embed(client, embedding_model, text) for text in TEXTS]
    assert np.allclose(together, np.concatenate(alone), atol=1e-6)
    assert not np.allclose(together[0], together[1], atol=0.1)


async def test_fewer_dimensions_are_the_first_ones_scaled_to_length_one(client, embedding_model):
    full = await embed(client, embedding_model, TEXTS)
    cut = await embed(client, embedding_model, TEXTS, dimensions=64)
    assert cut.shape == (3, 64)
    assert np.linalg.norm(cut, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert np.allclose(cut, full[:, :64] / np.linalg.norm(full[:, :64], axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("dimensions", [1, 31, 385])
async def test_dimensions_the_model_cannot_be_cut_to_are_refused(client, embedding_model, dimensions):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.embeddings.create(model=embedding_model, input="a", dimensions=dimensions)
    assert caught.value.param == "dimensions"


async def test_token_ids_give_what_their_text_gives(http, client, embedding_model):
    tokens = (await http.post("/tokenize", json={"model": embedding_model, "prompt": TEXTS[0]})).json()["tokens"]
    expected = await embed(client, embedding_model, TEXTS[0])
    assert np.array_equal(await embed(client, embedding_model, tokens), expected)
    assert np.array_equal(await embed(client, embedding_model, [tokens]), expected)


@pytest.mark.parametrize("tokens", [[1 << 20], [[5], [1 << 20]]])
async def test_a_token_outside_the_vocabulary_is_refused(client, embedding_model, tokens):
    with pytest.raises(openai.BadRequestError, match="Tokens must be ids"):
        await client.embeddings.create(model=embedding_model, input=tokens)


@pytest.mark.parametrize("empty", ["", [], [""], ["one", ""], [[]]])
async def test_an_empty_input_is_refused(client, embedding_model, empty):
    with pytest.raises(openai.BadRequestError, match="input is empty"):
        await client.embeddings.create(model=embedding_model, input=empty)


async def test_as_many_inputs_as_the_model_takes_are_answered_in_order(client, embedding_model):
    inputs = [[number] for number in range(2048)]
    vectors = await embed(client, embedding_model, inputs, dimensions=32)
    assert vectors.shape == (2048, 32)
    last = await embed(client, embedding_model, [2047], dimensions=32)
    assert np.allclose(vectors[2047], last[0], atol=1e-6)


async def test_more_inputs_than_the_model_takes_are_refused(client, embedding_model):
    with pytest.raises(openai.BadRequestError, match="2048 inputs; there are 2049") as caught:
        await client.embeddings.create(model=embedding_model, input=["a"] * 2049)
    assert caught.value.param == "input"


@pytest.mark.parametrize("too_long", ["word " * 257, [7] * 257])
async def test_an_input_over_the_models_length_is_refused_by_position(client, embedding_model, too_long):
    inputs = [[1], too_long] if isinstance(too_long, list) else ["fine", too_long]
    with pytest.raises(openai.BadRequestError, match="256 tokens; input 1 has 257") as caught:
        await client.embeddings.create(model=embedding_model, input=inputs)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "input[1]"


@pytest.mark.parametrize(("length", "used"), [(-1, 256), (5, 5), (1000, 256)])
async def test_truncate_prompt_tokens_cuts_instead_of_refusing(client, embedding_model, length, used):
    answer = await client.embeddings.create(
        model=embedding_model, input="word " * 300, extra_body={"truncate_prompt_tokens": length}
    )
    assert answer.usage.prompt_tokens == used


@pytest.mark.parametrize("length", [0, -2])
async def test_a_truncation_that_means_nothing_is_refused(client, embedding_model, length):
    with pytest.raises(openai.BadRequestError, match="truncate_prompt_tokens"):
        await client.embeddings.create(
            model=embedding_model, input="word", extra_body={"truncate_prompt_tokens": length}
        )
