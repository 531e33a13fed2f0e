"""Whatever is sent, the answer is a 4xx in OpenAI's form, never a 5xx."""

import json

import pytest
from bodies import BODIES
from pydantic import ValidationError

from deployments.router import middleware
from deployments.router.dispatch import ModelState, State
from deployments.router.routes.chat import ChatCompletionBody, CompletionBody
from deployments.router.routes.embeddings import EmbeddingBody
from deployments.router.routes.tokens import DetokenizeBody

CHAT, EMBEDDINGS = "smollm2-135m-instruct", "all-minilm-l6-v2"
VALID = {
    path: {"model": CHAT if "completions" in path else EMBEDDINGS} | body
    for path, body in BODIES.items()
    if "images" not in path
}
JSON = {"content-type": "application/json"}


@pytest.fixture
def application(shared_application):
    """What is refused changes nothing in it."""
    return shared_application


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"])
async def test_json_by_another_spelling_is_taken(http, content_type):
    raw = json.dumps(VALID["/v1/embeddings"]).encode()
    assert (await http.post("/v1/embeddings", content=raw, headers={"content-type": content_type})).status_code == 200


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", "temperature"),
        ("/v1/chat/completions", "max_tokens"),
        ("/v1/chat/completions", "chat_template_kwargs"),
        ("/v1/completions", "seed"),
        ("/v1/embeddings", "dimensions"),
        ("/v1/embeddings", "input"),
        ("/detokenize", "tokens"),
    ],
)
async def test_numbers_that_json_does_not_have_are_refused(http, assert_error, path, field, number):
    value = {"tokens": f"[{number}]", "chat_template_kwargs": f'{{"a": {number}}}'}.get(field, number)
    raw = json.dumps(VALID[path] | {field: "@"}).replace('"@"', value)
    assert "not valid JSON" in assert_error(await http.post(path, content=raw, headers=JSON), 400)["message"]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400, "1e308", "2147483648"])
async def test_numbers_out_of_range_are_refused(http, assert_error, number):
    for path, field in [
        ("/v1/chat/completions", "temperature"),
        ("/v1/chat/completions", "top_p"),
        ("/v1/chat/completions", "n"),
        ("/v1/completions", "top_k"),
        ("/v1/completions", "max_tokens"),
        ("/v1/completions", "min_tokens"),
        ("/v1/completions", "truncate_prompt_tokens"),
        ("/v1/embeddings", "truncate_prompt_tokens"),
        ("/v1/embeddings", "dimensions"),
    ]:
        raw = json.dumps(VALID[path] | {field: "@"}).replace('"@"', number)
        error = assert_error(await http.post(path, content=raw, headers=JSON), 400)
        assert field in error["message"] or "number out of range" in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": CHAT, "messages": [{"role": "user", "content": "@"}]}),
        ("/v1/completions", {"model": CHAT, "prompt": "@"}),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": "@"}),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": ["fine", "@"]}),
        ("/tokenize", {"model": EMBEDDINGS, "prompt": "@"}),
        ("/tokenize", {"model": CHAT, "prompt": "@"}),
        ("/v1/embeddings", {"model": "@", "input": "a"}),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": "a", "@": 1}),
    ],
)
@pytest.mark.parametrize("text", ["\\ud800", "a\\udfffb", "\\ud800\\ud800", "\\ude00\\ud83d"])
async def test_half_a_surrogate_pair_is_refused(http, assert_error, path, body, text):
    raw = json.dumps(body).replace("@", text)
    assert_error(await http.post(path, content=raw, headers=JSON), 400)


@pytest.mark.parametrize(
    "text",
    [
        "a\x00b",
        "\x00",
        "\u200b",
        "\ufeff",
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
        "é" * 100,
    ],
)
async def test_unusual_but_valid_text_is_answered(http, text):
    for path, body in [
        ("/v1/chat/completions", {"model": CHAT, "messages": [{"role": "user", "content": text}]}),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": text}),
        ("/tokenize", {"model": EMBEDDINGS, "prompt": text}),
    ]:
        assert (await http.post(path, json=body)).status_code == 200


async def test_a_body_at_the_limit_is_read_and_one_over_it_is_refused(router, assert_error):
    raw = json.dumps({"model": EMBEDDINGS, "input": "a"}).encode()
    async with router(body_limit=1000) as http:
        padded = raw + b" " * (1000 - len(raw))
        assert (await http.post("/v1/embeddings", content=padded, headers=JSON)).status_code == 200
        response = await http.post("/v1/embeddings", content=padded + b" ", headers=JSON)
    assert_error(response, 413, "payload_too_large")


@pytest.mark.parametrize("lingers", [True, False])
async def test_a_body_over_the_limit_is_refused_also_without_its_length(router, assert_error, monkeypatch, lingers):
    """Its rest is thrown away, so that a client that sends first and reads then does not lose the answer."""
    if not lingers:
        monkeypatch.setattr(middleware, "LINGERS", 0)
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(100):
            sent += 100
            yield b" " * 100

    async with router(body_limit=1000) as http:
        response = await http.post("/v1/embeddings", content=chunks(), headers=JSON)
    assert_error(response, 413, "payload_too_large")
    assert sent == 10_000 if lingers else sent <= 1200


async def test_a_body_in_chunks_is_read(http):
    raw = json.dumps({"model": CHAT, "prompt": "one two"}).encode()

    async def chunks():
        for start in range(0, len(raw), 7):
            yield raw[start : start + 7]

    response = await http.post("/v1/completions", content=chunks(), headers=JSON)
    assert response.json()["choices"][0]["text"] == "one two"


@pytest.mark.parametrize("length", ["abc", "-5", "9" * 30, "9" * 5000, "1e9", "²"])
async def test_a_content_length_that_is_not_one_is_no_server_error(http, length):
    raw = json.dumps({"model": CHAT, "prompt": "one"}).encode()
    headers = JSON | {"content-length": length.encode()}
    response = await http.post("/v1/completions", content=raw, headers=headers)
    assert response.status_code < 500


@pytest.mark.parametrize("size", ["large", "small"])
async def test_what_is_sent_in_a_large_body_goes_the_way_of_large_ones(router, size):
    seen = []

    class Watching:
        def states(self):
            return {CHAT: ModelState(State.READY)}

        async def stream(self, model, method, request, *, deadline, record):
            seen.append(method.large(request))
            yield b"{}"

    async def chunks():
        yield json.dumps({"model": CHAT, "prompt": "a" * (600_000 if size == "large" else 6)}).encode()

    async with router(dispatcher=Watching()) as http:
        assert (await http.post("/v1/completions", content=chunks(), headers=JSON)).status_code == 200
    assert seen == [size == "large"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": CHAT, "messages": [{"role": "user", "content": "word " * 100_000}]}),
        ("/v1/completions", {"model": CHAT, "prompt": "word " * 100_000}),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": "word " * 100_000}),
    ],
)
async def test_a_prompt_of_a_hundred_thousand_words_is_too_long(http, assert_error, path, body):
    assert_error(await http.post(path, json=body), 400, "context_length_exceeded")


MANY = 20_000
MANY_FIELDS = {str(number): None for number in range(MANY)}


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        (EmbeddingBody, "/v1/embeddings", {"input": [None] * MANY}),
        (EmbeddingBody, "/v1/embeddings", MANY_FIELDS),
        (CompletionBody, "/v1/completions", {"prompt": [[None]] * MANY}),
        (ChatCompletionBody, "/v1/chat/completions", {"messages": [{}] * MANY}),
        (ChatCompletionBody, "/v1/chat/completions", {"messages": [MANY_FIELDS]}),
        (ChatCompletionBody, "/v1/chat/completions", {"messages": [{"role": "user", "content": [{}] * MANY}]}),
        (ChatCompletionBody, "/v1/chat/completions", {"tools": [{}] * MANY}),
        (ChatCompletionBody, "/v1/chat/completions", {"logit_bias": MANY_FIELDS}),
        (DetokenizeBody, "/detokenize", {"tokens": [None] * MANY}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_of_very_many_mistakes_only_a_few_are_described(http, assert_error, kind, path, wrong):
    assert_error(await http.post(path, json=VALID[path] | wrong), 400)
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(VALID[path] | wrong)
    assert caught.value.error_count() < 10


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/nothing", "/v1/models/a/b", "/%00", "/..%2f..%2fetc", "/é"])
async def test_an_unknown_path_is_404(http, assert_error, path):
    for method in ("GET", "POST"):
        assert_error(await http.request(method, path), 404)
