"""Real models, real answers, judged by OpenAI's own client. What vLLM does with a request is proven only here."""

import json
from pathlib import Path

import httpx
import numpy as np
import openai
import psutil
import pytest
import reference_vectors
from cluster_metrics import vllm_tokens
from local_cluster import CHAT, EMBEDDINGS
from patience import wait_until

from medley.local import cluster as local
from medley.local.preflight import DASHBOARD_PORT

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_the_idle_cluster_stays_within_six_gib(cluster):
    """As README.md says."""
    assert local.memory_gib() <= 6


def test_models_say_what_they_are_and_how_they_do(cluster, client, http):
    expected = {}
    for entry in cluster.document["applications"]:
        if "model" in entry["args"]:
            least = entry["deployments"][0]["autoscaling_config"]["min_replicas"]
            expected[entry["name"]] = ("ready" if least else "scaled_to_zero", entry["args"]["variant"])
    cards = {card.id: card for card in client.models.list()}
    assert {name: (card.state, card.variant) for name, card in cards.items()} == expected
    assert client.models.retrieve("qwen2.5-7b-instruct").state == "not_deployed"
    readyz = http.get("/readyz")
    assert (readyz.status_code, readyz.json()["ready"]) == (200, True)


def test_the_capital_of_france_is_paris(client):
    answer = client.chat.completions.create(model=CHAT, messages=QUESTION)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_has_every_token_and_its_usage(client):
    stream = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "Count from one to two hundred."}],
        max_tokens=60,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert sum(bool(text) for text in texts) >= 50
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 60


def test_an_answer_arrives_while_it_is_written_and_ends_when_its_reader_leaves(cluster):
    """By vLLM's own count of tokens: were the answer held back, or written to its end, it would be the whole of it.

    The whole is short enough for a busy machine to keep the promise alone: it refuses what would take 300 s.
    """
    whole, enough = 1000, 20
    before = vllm_tokens()
    body = {"model": CHAT, "messages": QUESTION, "stream": True, "max_tokens": whole, "ignore_eos": True}
    read = 0
    with (
        httpx.Client(base_url=cluster.address, timeout=None, trust_env=False) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as stream,
    ):
        assert stream.status_code == 200, stream.read()
        for line in stream.iter_lines():
            read += line.startswith("data: {")
            if read == enough:
                break
    assert read == enough
    wait_until(lambda: vllm_tokens() >= before + enough - 2, "vLLM's count of what was read", every=0.3)
    seen = []

    def stands_still() -> bool:
        seen.append(vllm_tokens())
        return len(seen) > 10 and len(set(seen[-10:])) == 1

    wait_until(stands_still, "vLLM to stop writing", 600, every=0.3)
    assert seen[-1] - before < whole / 2


def test_the_same_seed_gives_the_same_answer(client):
    def ask(seed):
        answer = client.completions.create(model=CHAT, prompt="Once upon", max_tokens=12, temperature=1, seed=seed)
        return answer.choices[0].text

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(4)}) > 1


def test_a_stream_has_the_log_probabilities_of_the_whole_answer(client):
    """Also of tokens that complete no character; and none for the token that ends the answer."""
    schema = {"name": "x", "schema": {"enum": ["a 😀👩 中文"]}}
    asked = {"model": CHAT, "messages": QUESTION, "logprobs": True, "max_tokens": 60, "temperature": 0}
    asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    parts = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    streamed = [entry for part in parts for entry in part.content]
    assert streamed == whole.choices[0].logprobs.content
    assert len(streamed) == whole.usage.completion_tokens == chunks[-1].usage.completion_tokens
    assert bytes(byte for entry in streamed for byte in entry.bytes).decode() == whole.choices[0].message.content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", {"prompt": [49152]}),  # one past the table, which vLLM lets pass and dies of
        ("completions", {"prompt": [[1], [49152]]}),
        ("completions", {"prompt": "one", "stop_token_ids": [49152]}),
        ("completions", {"prompt": "word " * 1_000_000, "stream": True}),
        ("chat/completions", {"messages": QUESTION, "bad_words": [""]}),
        ("chat/completions", {"messages": QUESTION, "min_tokens": 9, "max_tokens": 5, "stream": True}),
        ("chat/completions", {"messages": QUESTION, "allowed_token_ids": []}),
        ("chat/completions", {"messages": [{"role": "user", "content": "word " * 1_000_000}]}),
    ],
)
def test_what_vllm_would_choke_on_is_the_clients_error(http, client, path, body):
    response = http.post(f"/v1/{path}", json={"model": CHAT, **body})
    assert response.status_code == 400, response.text
    assert client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=2).choices


def test_sixteen_stops_and_an_echo_of_nothing_more(client):
    stops = [f"stop {number}" for number in range(16)]
    assert client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=2, stop=stops).choices
    echo = client.completions.create(model=CHAT, prompt="The sky is", max_tokens=0, echo=True, logprobs=1)
    assert echo.choices[0].text == "The sky is"
    assert echo.usage.completion_tokens == 0


def test_a_stop_word_ends_the_answer_and_logprobs_come_with_it(client):
    answer = client.chat.completions.create(
        model=CHAT, messages=QUESTION, stop=["Paris"], logprobs=True, top_logprobs=2, temperature=0
    )
    assert answer.choices[0].message.content == "The capital of France is "
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


def test_several_answers_to_one_question(client):
    answer = client.chat.completions.create(model=CHAT, messages=QUESTION, n=3, max_tokens=20)
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
    assert set(document) == {"city", "people"}
    assert isinstance(document["city"], str)
    assert isinstance(document["people"], int)


TOOL = {
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


def test_a_required_tool_is_called_with_its_arguments(client):
    answer = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[TOOL],
        tool_choice="required",
        max_tokens=120,
    )
    call = answer.choices[0].message.tool_calls[0].function
    assert call.name == "get_weather"
    assert isinstance(json.loads(call.arguments)["city"], str)


def test_a_prompt_of_a_hundred_thousand_tokens_is_refused(client):
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "word " * 100_000}])
    assert refusal.value.code == "context_length_exceeded"


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
    texts, vectors = reference_vectors.read()
    answer = client.embeddings.create(model=EMBEDDINGS, input=texts)
    assert np.abs(np.array([row.embedding for row in answer.data]) - vectors).max() < 1e-3


def test_float_and_base64_are_the_same_and_dimensions_are_cut(client):
    base64 = client.embeddings.create(model=EMBEDDINGS, input="Hello").data[0].embedding
    plain = client.embeddings.create(model=EMBEDDINGS, input="Hello", encoding_format="float").data[0].embedding
    cut = client.embeddings.create(model=EMBEDDINGS, input="Hello", dimensions=64).data[0].embedding
    assert np.allclose(base64, plain, atol=1e-6)
    assert len(cut) == 64
    assert np.allclose(cut, np.array(plain[:64]) / np.linalg.norm(plain[:64]), atol=1e-5)


def test_a_large_batch_comes_back_whole_and_in_order(client):
    """Large enough to go through Ray's object store."""
    texts = [f"number {number}" for number in range(500)]
    answer = client.embeddings.create(model=EMBEDDINGS, input=texts)
    assert [row.index for row in answer.data] == list(range(500))
    again = client.embeddings.create(model=EMBEDDINGS, input=texts[321]).data[0].embedding
    assert np.abs(np.array(answer.data[321].embedding) - again).max() < 1e-3


@pytest.mark.parametrize("model", [CHAT, EMBEDDINGS])
def test_tokens_go_there_and_back(http, model):
    body = {"model": model, "prompt": "hello you", "add_special_tokens": False, "return_token_strs": True}
    cut = http.post("/tokenize", json=body).json()
    assert cut["count"] == len(cut["tokens"]) == len(cut["token_strs"])
    assert http.post("/detokenize", json={"model": model, "tokens": cut["tokens"]}).json()["prompt"] == "hello you"


def test_token_arrays_embed_as_their_text_does(client, http):
    tokens = http.post("/tokenize", json={"model": EMBEDDINGS, "prompt": "A tokenized sentence."}).json()["tokens"]
    by_tokens = client.embeddings.create(model=EMBEDDINGS, input=tokens).data[0].embedding
    by_text = client.embeddings.create(model=EMBEDDINGS, input="A tokenized sentence.").data[0].embedding
    assert np.allclose(by_tokens, by_text, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"logprobs": True, "top_logprobs": 1}, {"n": 2}, {"tools": [TOOL], "tool_choice": "required"}],
    ids=["plain", "logprobs", "n", "tools"],
)
def test_real_answers_are_as_openai_describes_them(http, conforms, options):
    body = {"model": CHAT, "messages": QUESTION, "max_tokens": 20} | options
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


def chat_with(**fields) -> bytes:
    return json.dumps({"model": CHAT, "messages": QUESTION} | fields).encode()


NONSENSE = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", b"{"),
        ("/v1/chat/completions", b"[" * 50_000),
        ("/v1/chat/completions", b"x" * (9 << 20)),
        ("/v1/chat/completions", chat_with(messages=[{"role": "user", "content": 5}])),
        ("/v1/chat/completions", chat_with(logit_bias={"999999": 5})),
        ("/v1/chat/completions", chat_with(max_tokens=10**9)),
        ("/v1/chat/completions", chat_with(response_format=NONSENSE)),
        ("/v1/completions", json.dumps({"model": CHAT, "prompt": [999999]}).encode()),
        ("/v1/embeddings", json.dumps({"model": EMBEDDINGS, "input": [999999]}).encode()),
        ("/v1/embeddings", json.dumps({"model": EMBEDDINGS, "input": "word " * 300}).encode()),
        ("/detokenize", json.dumps({"model": CHAT, "tokens": [2**31 - 1]}).encode()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_malformed_gets_a_clean_refusal(http, assert_error, path, body):
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text[:500]
    assert_error(answer)
    assert "site-packages" not in answer.text


def test_control_headers_of_ray_change_nothing(http):
    headers = {"x-request-timeout-seconds": "0.001", "serve_multiplexed_model_id": "x", "x-request-id": "my-id-1"}
    body = {"model": CHAT, "messages": QUESTION, "max_tokens": 8}
    answer = http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    assert answer.headers.get_list("x-request-id") == ["my-id-1"]


def test_rays_own_interface_asks_for_the_token(cluster):
    answer = httpx.get(f"http://127.0.0.1:{DASHBOARD_PORT}/api/serve/applications/", trust_env=False)
    assert answer.status_code == 401


def test_every_listener_of_the_edge_is_on_loopback(cluster):
    edge = [one.laddr.ip for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == 8000]
    assert set(edge) == {"127.0.0.1"}


def test_an_onnx_replica_and_the_router_hold_no_torch(cluster):
    for app in (EMBEDDINGS, "router"):
        mapped = Path(f"/proc/{cluster.replica(app).pid}/maps").read_text()
        assert "libtorch" not in mapped
        assert ("onnxruntime" in mapped) == (app == EMBEDDINGS)


def test_threads_of_models_that_share_the_machine_sleep_while_they_wait(cluster):
    pids = [pid for replicas in cluster.pids().values() for pid in replicas]
    assert pids
    for pid in pids:
        assert psutil.Process(pid).environ()["OMP_WAIT_POLICY"] == "PASSIVE"
