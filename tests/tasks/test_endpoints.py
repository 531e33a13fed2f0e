"""Every endpoint of every task: its example is answered, its description holds, and whatever else is sent, the answer
is a 4xx in OpenAI's form, never a 5xx."""

import copy
import json
import random

import openai
import pytest
import schemathesis
from bodies import ENCODED, PIXEL
from endpoints import each, endpoints
from hypothesis import given, settings
from hypothesis import strategies as st

JSON = {"content-type": "application/json"}
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE

OF_SEVERAL_TASKS = {"/tokenize", "/detokenize", "/v1/estimate"}
takes_forms = each(lambda endpoint: endpoint.forms)
takes_no_forms = each(lambda endpoint: not endpoint.forms)


@each()
async def test_the_body_that_is_spoiled_here_is_valid(http, endpoint):
    response = await http.post(endpoint.path, json=endpoint.body)
    assert response.status_code == 200, response.text


@each()
async def test_its_example_is_answered_without_naming_a_model_too_if_one_can_be_chosen(http, assert_error, endpoint):
    """Where it cannot, it is said which field is missing."""
    response = await http.post(endpoint.path, json=endpoint.example)
    if response.status_code != 200:
        assert assert_error(response, 400)["param"] == "model"


@each()
def test_it_takes_forms_if_it_takes_a_file(endpoint):
    holds_a_file = any(str(value).startswith("data:") for value in endpoint.example.values())
    assert endpoint.forms == holds_a_file


@takes_forms
async def test_it_is_valid_as_a_form(http, endpoint):
    fields = {key: json.dumps(one) if isinstance(one, list) else str(one) for key, one in endpoint.body.items()}
    response = await http.post(endpoint.path, files={name: (None, value) for name, value in fields.items()})
    assert response.status_code == 200, response.text


@each()
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
async def test_a_body_that_is_not_a_json_object_is_refused(http, assert_error, endpoint, raw):
    assert_error(await http.post(endpoint.path, content=raw, headers=JSON), 400)


@each()
@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "image/png", "application/x-www-form-urlencoded", "json", "\xff"]
)
async def test_a_body_of_another_content_type_is_refused(http, assert_error, endpoint, content_type):
    headers = {} if content_type is None else {"content-type": content_type.encode("latin-1")}
    response = await http.post(endpoint.path, content=json.dumps(endpoint.body).encode(), headers=headers)
    assert_error(response, 415, "unsupported_media_type")


@takes_no_forms
async def test_a_form_is_refused(http, assert_error, endpoint):
    assert_error(await http.post(endpoint.path, files={"prompt": (None, b"text")}), 415)


@takes_forms
@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=b"])
async def test_a_form_that_is_none_is_refused(http, assert_error, endpoint, content_type):
    response = await http.post(endpoint.path, content=b"nonsense", headers={"content-type": content_type})
    assert_error(response, 400)


@each()
async def test_a_field_that_there_is_not_is_named(http, assert_error, endpoint):
    response = await http.post(endpoint.path, json=endpoint.body | {"temprature": 1})
    error = assert_error(response, 400, "unsupported_parameter")
    assert (error["param"], "'temprature'" in error["message"]) == ("temprature", True)


@each()
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
async def test_a_wrong_method_is_405(http, assert_error, endpoint, method):
    response = await http.request(method, endpoint.path)
    if method == "GET" and response.status_code == 200:  # a list under the same path
        return
    assert_error(response, 405)
    assert "POST" in response.headers["allow"]


@each()
async def test_a_model_that_there_is_not_and_one_for_something_else_are_refused(http, assert_error, endpoint):
    nothing = await http.post(endpoint.path, json=endpoint.body | {"model": "nothing"})
    assert assert_error(nothing, 404, "model_not_found")["param"] == "model"
    others = (one for one in endpoints() if one.task is not endpoint.task)
    other = await http.post(endpoint.path, json=endpoint.body | {"model": next(others).body["model"]})
    if endpoint.path not in OF_SEVERAL_TASKS:
        assert assert_error(other, 400)["param"] == "model"


WRONG_NUMBERS = [True, 5, -1, 1.5, 10**400, -(10**30), 1e308]
WRONG = [*WRONG_NUMBERS, None, "", "x", "\x00", [], [None], [[[1]]], {}, {"a": 1}, [True], ENCODED]


@each()
@pytest.mark.parametrize("count", [3, pytest.param(len(WRONG), marks=pytest.mark.matrix)])
async def test_a_wrong_type_in_any_field_is_no_server_error(http, assert_error, endpoint, count):
    for field in endpoint.body:
        for wrong in random.sample(WRONG, count):
            raw = json.dumps(endpoint.body | {field: wrong}).encode()
            never_a_server_error(await http.post(endpoint.path, content=raw, headers=JSON), assert_error)


@each()
@pytest.mark.parametrize("text", ["\\ud800", "a\\udfffb", "\\ude00\\ud83d"])
async def test_half_a_surrogate_pair_is_refused(http, assert_error, endpoint, text):
    for field, value in endpoint.body.items():
        if isinstance(value, str):
            raw = json.dumps(endpoint.body | {field: "@"}).replace("@", text)
            assert_error(await http.post(endpoint.path, content=raw, headers=JSON), 400)


def never_a_server_error(response, assert_error):
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert_error(response)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["user", "function", "text", "64x64", "auto", "url", ENCODED, 1 << 31, 1 << 63, "\x00"]),
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
def spoiled(draw, body):
    """A body with one to three places replaced, removed or added to."""
    holder = {"body": copy.deepcopy(body)}
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
    return holder["body"]


@each()
@pytest.mark.parametrize("examples", [15, pytest.param(400, marks=pytest.mark.matrix)])
def test_no_spoiled_body_is_a_server_error(everything, post_each, assert_error, endpoint, examples):
    @settings(max_examples=examples)
    @given(spoiled(endpoint.body))
    def refused_or_answered(body):
        raw = json.dumps(body).encode()
        never_a_server_error(post_each(everything, endpoint.path, content=raw, headers=JSON), assert_error)

    refused_or_answered()


names = st.sampled_from(["image", "image[]", "mask", "prompt", "n", "loras", "loras[][name]", "controls[][image]", "x"])
contents = st.binary(max_size=40) | st.sampled_from([PIXEL, b"1", b"2", b"true", b"[]", b'[{"name": "pixel-art"}]'])


@st.composite
def forms(draw):
    """A form of some parts, with or without a proper end."""
    raw = b""
    for name, value, file in draw(
        st.lists(st.tuples(names | st.text(max_size=8), contents, st.booleans()), max_size=6)
    ):
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"' + ('; filename="a"' if file else "")
        raw += head.encode("utf-8", "replace") + b"\r\n\r\n" + value + b"\r\n"
    return raw + draw(st.binary(max_size=10) | st.just(b"--b--"))


@takes_forms
@pytest.mark.parametrize("examples", [15, pytest.param(300, marks=pytest.mark.matrix)])
def test_no_form_is_a_server_error(everything, post_each, assert_error, endpoint, examples):
    @settings(max_examples=examples)
    @given(forms())
    def refused_or_answered(raw):
        headers = {"content-type": "multipart/form-data; boundary=b"}
        never_a_server_error(post_each(everything, endpoint.path, content=raw, headers=headers), assert_error)

    refused_or_answered()


@pytest.mark.parametrize("mode", [POSITIVE, NEGATIVE])
@pytest.mark.parametrize("examples", [3, pytest.param(60, marks=pytest.mark.matrix)])
def test_the_endpoints_do_what_their_description_says(everything, hold_to_its_document, mode, examples):
    api = schemathesis.openapi.from_asgi("/openapi.json", everything)
    # Of a GET there is nothing to get wrong.
    tried = hold_to_its_document(api, mode, examples, lambda one: mode is POSITIVE or one.method != "get")
    assert {path for path, _ in tried} >= {endpoint.path for endpoint in endpoints()}
    if examples > 3:
        assert {(one.path, "multipart/form-data") for one in endpoints() if one.forms} <= tried


@each()
async def test_the_description_has_a_summary_a_tag_and_an_example_that_is_answered(http, endpoint):
    operation = (await http.get("/openapi.json")).json()["paths"][endpoint.path]["post"]
    assert operation["summary"]
    assert operation["tags"]
    (example,) = {
        json.dumps(one["example"]) for one in operation["requestBody"]["content"].values() if "example" in one
    }
    sent = json.loads(example)
    assert sent.pop("model") == "MODEL"
    response = await http.post(endpoint.path, json={"model": endpoint.body["model"], **sent})
    assert response.status_code == 200, response.text
    (described,) = set(operation["responses"]["200"]["content"]) - {"text/event-stream"}
    assert response.headers["content-type"] in (described, "text/event-stream; charset=utf-8")


@each()
async def test_the_official_client_reads_answers_and_errors(client, endpoint):
    body = {"model": endpoint.body["model"], **endpoint.example}
    assert await client.post(endpoint.path, cast_to=object, body=body)
    with pytest.raises(openai.NotFoundError) as not_there:
        await client.post(endpoint.path, cast_to=object, body=body | {"model": "nothing"})
    assert (not_there.value.param, not_there.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.post(endpoint.path, cast_to=object, body=body | {"model": 5})
    assert wrong.value.param == "model"
