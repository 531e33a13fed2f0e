"""Whatever is sent, the answer is a 4xx in OpenAI's form, never a 5xx."""

import copy
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.router.dispatch import ModelState, State
from deployments.router.routes.chat import ChatCompletionBody, CompletionBody
from deployments.router.routes.embeddings import EmbeddingBody
from deployments.router.routes.tokens import DetokenizeBody

CHAT, EMBEDDINGS = "smollm2-135m-instruct", "all-minilm-l6-v2"
VALID = {
    "/v1/chat/completions": {
        "model": CHAT,
        "messages": [
            {"role": "system", "content": "one"},
            {"role": "user", "content": [{"type": "text", "text": "two"}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        "logit_bias": {"5": 1},
        "stop": ["x"],
        "n": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 5,
    },
    "/v1/completions": {"model": CHAT, "prompt": ["one", "two"], "stop": "x", "logprobs": 1, "echo": False, "seed": 1},
    "/v1/embeddings": {"model": EMBEDDINGS, "input": [[1, 2], [3]], "dimensions": 64, "truncate_prompt_tokens": 3},
    "/tokenize": {"model": EMBEDDINGS, "prompt": "one", "add_special_tokens": True, "return_token_strs": True},
    "/detokenize": {"model": EMBEDDINGS, "tokens": [1, 2, 3]},
}
PATHS = list(VALID)
JSON = {"content-type": "application/json"}


@pytest.fixture
def application(shared_application):
    """What is refused changes nothing in it."""
    return shared_application


@pytest.mark.parametrize("path", PATHS)
async def test_the_bodies_that_are_spoiled_here_are_valid(http, path):
    assert (await http.post(path, json=VALID[path])).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b"nonsense",
        b"'single'",
        b"\x00",
        b"\xff\xfe",
        b'{"model": "a"} trailing',
        b"null",
        b"[]",
        b"5",
        b'"text"',
        b"{}",
        b"[" * 10_000 + b"]" * 10_000,
        b'{"model":' * 10_000 + b"1" + b"}" * 10_000,
        b"9" * 5_000,
        b"NaN",
        b'{"model": "\xff"}',
        b'{"model": "\xed\xa0\x80"}',
        b'{"model": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        json.dumps({"model": "a"}).encode("utf-16"),
    ],
    ids=lambda raw: repr(raw[:20]),
)
async def test_a_body_that_is_not_a_json_object_is_refused(http, assert_error, path, raw):
    assert_error(await http.post(path, content=raw, headers=JSON), 400)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "json", "\xff"])
async def test_a_body_of_another_content_type_is_refused(http, assert_error, path, content_type):
    headers = {} if content_type is None else {"content-type": content_type.encode("latin-1")}
    response = await http.post(path, content=json.dumps(VALID[path]).encode(), headers=headers)
    assert_error(response, 415, "unsupported_media_type")


async def test_a_form_upload_is_refused(http, assert_error):
    assert_error(await http.post("/v1/embeddings", files={"input": b"text"}), 415)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"])
async def test_json_by_another_spelling_is_taken(http, content_type):
    raw = json.dumps(VALID["/v1/embeddings"]).encode()
    assert (await http.post("/v1/embeddings", content=raw, headers={"content-type": content_type})).status_code == 200


WRONG_VALUES = [None, True, 5, -1, 1.5, 10**400, -(10**30), 1e308, "", "x", [], [None], [[[1]]], {}, {"a": 1}, [True]]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("count", [3, pytest.param(len(WRONG_VALUES), marks=pytest.mark.matrix)])
async def test_a_wrong_type_in_any_field_is_no_server_error(http, assert_error, path, count):
    for field in VALID[path]:
        for wrong in random.sample(WRONG_VALUES, count):
            raw = json.dumps(VALID[path] | {field: wrong}).encode()
            response = await http.post(path, content=raw, headers=JSON)
            if response.status_code != 200:
                assert_error(response)
                assert 400 <= response.status_code < 500, (field, wrong, response.text)


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


async def test_a_body_over_the_limit_is_refused_also_without_its_length(router, assert_error):
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(100):
            sent += 100
            yield b" " * 100

    async with router(body_limit=1000) as http:
        response = await http.post("/v1/embeddings", content=chunks(), headers=JSON)
    assert_error(response, 413, "payload_too_large")
    assert sent <= 1200


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


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
async def test_a_wrong_method_is_405(http, assert_error, path, method):
    response = await http.request(method, path)
    assert_error(response, 405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/nothing", "/v1/models/a/b", "/%00", "/..%2f..%2fetc", "/é"])
async def test_an_unknown_path_is_404(http, assert_error, path):
    for method in ("GET", "POST"):
        assert_error(await http.request(method, path), 404)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["user", "function", "text", CHAT, EMBEDDINGS, "json_object", 1 << 31, 1 << 63, "\x00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(document, path=()):
    """Every path of keys and indices into a document."""
    yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def spoiled(draw):
    """An endpoint and its valid body with one to three places replaced, removed or added to."""
    path = draw(st.sampled_from(PATHS))
    holder = {"body": copy.deepcopy(VALID[path])}
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from([("body", *place) for place in places(holder["body"])]))
        target = holder
        for key in parents:
            target = target[key]
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "remove" and parents:
            del target[last]
        elif action == "add" and isinstance(target[last], dict):
            target[last][draw(st.text(max_size=8))] = draw(values)
        elif action == "add" and isinstance(target[last], list):
            target[last].insert(0, draw(values))
        else:
            target[last] = draw(values)
    return path, holder["body"]


@pytest.mark.parametrize("examples", [60, pytest.param(2000, marks=pytest.mark.matrix)])
def test_no_spoiled_body_is_a_server_error(application, post_each, assert_error, examples):
    @settings(max_examples=examples)
    @given(spoiled())
    def refused_or_answered(case):
        path, body = case
        response = post_each(application, path, content=json.dumps(body).encode(), headers=JSON)
        assert response.status_code < 500, response.text
        if response.status_code != 200:
            assert_error(response)

    refused_or_answered()
