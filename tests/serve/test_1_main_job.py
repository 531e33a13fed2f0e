"""Real models, real answers, judged by OpenAI's own client."""

import json
import time

import numpy as np
import openai
import pytest
from starter_cluster import CHAT, EMBEDDINGS

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_the_capital_of_france_is_paris(client):
    answer = client.chat.completions.create(model=CHAT, messages=QUESTION)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_answer_arrives_while_it_is_written(client):
    # Long enough that a reader who sleeps for half a second on a busy machine does not take it for one piece.
    arrivals, usage = [], None
    asked = time.monotonic()
    stream = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "Count from one to two hundred."}],
        max_tokens=200,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            arrivals.append(time.monotonic() - asked)
        usage = chunk.usage or usage
    assert usage.completion_tokens == 200
    assert len(arrivals) >= 180
    assert arrivals[0] < arrivals[-1] / 2, "the first token came when the answer was all but written"
    assert np.count_nonzero(np.diff(arrivals) > 0.002) >= 20, "the tokens came in a few lumps"


def test_the_same_seed_gives_the_same_answer(client):
    def ask(seed):
        answer = client.completions.create(model=CHAT, prompt="Once upon", max_tokens=20, temperature=1, seed=seed)
        return answer.choices[0].text

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(4)}) > 1


def test_a_stop_word_ends_the_answer_and_logprobs_come_with_it(client):
    answer = client.chat.completions.create(
        model=CHAT, messages=QUESTION, stop=["Paris"], logprobs=True, top_logprobs=2, temperature=0
    )
    assert answer.choices[0].message.content == "The capital of France is "
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


def test_several_answers_to_one_question(client):
    answer = client.chat.completions.create(model=CHAT, messages=QUESTION, n=3, max_tokens=30)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_a_json_schema_is_kept(client):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "Describe the capital of France as JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
        max_tokens=100,
    )
    document = json.loads(answer.choices[0].message.content)
    assert isinstance(document["city"], str)
    assert isinstance(document["people"], int)


def test_a_required_tool_is_called_with_its_arguments(client):
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 30}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    answer = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[tool],
        tool_choice="required",
        max_tokens=120,
    )
    call = answer.choices[0].message.tool_calls[0].function
    assert call.name == "get_weather"
    assert isinstance(json.loads(call.arguments)["city"], str)


def test_paraphrases_are_closer_than_unrelated_sentences(client):
    sentences = [
        "A man is eating a piece of bread.",
        "Someone eats some bread.",
        "The stock market fell sharply on Monday.",
        "Share prices dropped a lot at the start of the week.",
    ]
    answer = client.embeddings.create(model=EMBEDDINGS, input=sentences)
    vectors = np.array([row.embedding for row in answer.data])
    near = vectors @ vectors.T
    assert min(near[0, 1], near[2, 3]) > max(near[0, 2], near[0, 3], near[1, 2], near[1, 3]) + 0.3


def test_embeddings_equal_those_of_sentence_transformers(client):
    from sentence_transformers import SentenceTransformer

    from models.catalog import load_catalog
    from models.weights import locate

    spec = load_catalog()[EMBEDDINGS]
    reference = SentenceTransformer(str(locate(spec, spec.variants["torch"])))
    texts = ["Hi", "Ein Satz auf Deutsch.", "日本語のテキスト", "word " * 200, "The quick brown fox."]
    ours = client.embeddings.create(model=EMBEDDINGS, input=texts)
    assert np.abs(np.array([row.embedding for row in ours.data]) - reference.encode(texts)).max() < 1e-3


def test_float_and_base64_are_the_same_and_dimensions_are_cut(client, http):
    base64 = client.embeddings.create(model=EMBEDDINGS, input="Hello").data[0].embedding
    plain = client.embeddings.create(model=EMBEDDINGS, input="Hello", encoding_format="float").data[0].embedding
    cut = client.embeddings.create(model=EMBEDDINGS, input="Hello", dimensions=64).data[0].embedding
    assert np.allclose(base64, plain, atol=1e-6)
    assert len(cut) == 64
    assert np.allclose(cut, np.array(plain[:64]) / np.linalg.norm(plain[:64]), atol=1e-5)


def test_token_arrays_embed_as_their_text_does(client, http):
    tokens = http.post("/tokenize", json={"model": EMBEDDINGS, "prompt": "A tokenized sentence."}).json()["tokens"]
    by_tokens = client.embeddings.create(model=EMBEDDINGS, input=tokens).data[0].embedding
    by_text = client.embeddings.create(model=EMBEDDINGS, input="A tokenized sentence.").data[0].embedding
    assert np.allclose(by_tokens, by_text, atol=1e-6)


def test_a_large_batch_comes_back_whole(client):
    answer = client.embeddings.create(model=EMBEDDINGS, input=[f"number {i}" for i in range(1500)])
    assert [row.index for row in answer.data] == list(range(1500))


@pytest.mark.parametrize("model", [CHAT, EMBEDDINGS])
def test_tokens_go_there_and_back(http, model):
    body = {"model": model, "prompt": "hello you", "add_special_tokens": False, "return_token_strs": True}
    cut = http.post("/tokenize", json=body).json()
    assert cut["count"] == len(cut["tokens"]) == len(cut["token_strs"])
    assert http.post("/detokenize", json={"model": model, "tokens": cut["tokens"]}).json()["prompt"] == "hello you"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"logprobs": True, "top_logprobs": 1},
        {"n": 2},
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": "required",
        },
    ],
    ids=str,
)
def test_real_answers_are_as_openai_describes_them(http, conforms, options):
    body = {"model": CHAT, "messages": QUESTION, "max_tokens": 30} | options
    conforms("CreateChatCompletionResponse", http.post("/v1/chat/completions", json=body).json())
    stream = http.post(
        "/v1/chat/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}}
    ).text
    *events, done = stream.strip().split("\n\n")
    assert done == "data: [DONE]"
    for event in events:
        conforms("CreateChatCompletionStreamResponse", json.loads(event.removeprefix("data: ")))


def test_other_real_answers_are_as_openai_describes_them(http, conforms):
    text = http.post("/v1/completions", json={"model": CHAT, "prompt": "Once", "max_tokens": 5, "logprobs": 1})
    conforms("CreateCompletionResponse", text.json())
    conforms("CreateEmbeddingResponse", http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "a"}).json())
    conforms("ListModelsResponse", http.get("/v1/models").json())


def test_models_say_what_they_are_and_how_they_do(client, http):
    cards = {card.id: card for card in client.models.list()}
    assert cards[CHAT].state == cards[EMBEDDINGS].state == cards["doodle"].state == "ready"
    sleeping = {"doodle-turbo", "realesr-animevideov3", "magenta-styles"}
    assert {name for name, card in cards.items() if card.state == "scaled_to_zero"} == sleeping
    assert len(cards) == 6
    assert cards[EMBEDDINGS].variant == "onnx"
    assert client.models.retrieve("qwen2.5-7b-instruct").state == "not_deployed"
    assert http.get("/readyz").json()["ready"] is True


def test_a_prompt_of_a_hundred_thousand_tokens_is_refused(client):
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "word " * 100_000}])
    assert refusal.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", b"{"),
        ("/v1/chat/completions", b"[" * 50_000),
        ("/v1/chat/completions", b"x" * (9 << 20)),
        ("/v1/chat/completions", b'{"model": "' + CHAT.encode() + b'", "messages": [{"role": "user", "content": 5}]}'),
        (
            "/v1/chat/completions",
            json.dumps({"model": CHAT, "messages": QUESTION, "logit_bias": {"999999": 5}}).encode(),
        ),
        ("/v1/chat/completions", json.dumps({"model": CHAT, "messages": QUESTION, "max_tokens": 10**9}).encode()),
        ("/v1/completions", json.dumps({"model": CHAT, "prompt": [999999]}).encode()),
        (
            "/v1/chat/completions",
            json.dumps(
                {
                    "model": CHAT,
                    "messages": QUESTION,
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "x", "schema": {"type": "nonsense"}},
                    },
                }
            ).encode(),
        ),
        ("/v1/embeddings", json.dumps({"model": EMBEDDINGS, "input": [999999]}).encode()),
        ("/v1/embeddings", json.dumps({"model": EMBEDDINGS, "input": "word " * 300}).encode()),
        ("/detokenize", json.dumps({"model": CHAT, "tokens": [2**31 - 1]}).encode()),
        ("/tokenize", json.dumps({"model": CHAT, "messages": [{"role": "tool", "content": "x"}] * 3}).encode()),
    ],
)
def test_what_is_malformed_gets_a_clean_refusal(http, path, body):
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    if path == "/tokenize" and answer.status_code == 200:
        return  # a template may take any roles
    assert 400 <= answer.status_code < 500, answer.text[:500]
    error = answer.json()["error"]
    assert error["message"]
    assert "Traceback" not in answer.text
    assert "site-packages" not in answer.text


def test_control_headers_of_ray_change_nothing(http):
    headers = {"x-request-timeout-seconds": "0.001", "serve_multiplexed_model_id": "x", "x-request-id": "my-id-1"}
    answer = http.post("/v1/chat/completions", json={"model": CHAT, "messages": QUESTION}, headers=headers)
    assert answer.status_code == 200
    assert answer.headers.get_list("x-request-id") == ["my-id-1"]


def test_rays_own_interface_asks_for_the_token():
    import httpx

    from medley.preflight import DASHBOARD_PORT

    answer = httpx.get(f"http://127.0.0.1:{DASHBOARD_PORT}/api/serve/applications/", trust_env=False)
    assert answer.status_code == 401
