"""Whatever is sent about pictures, the answer is a 4xx in OpenAI's form, never a 5xx."""

import base64
import copy
import json
import random
import tempfile

import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.router.multipart import MOST_FILES, MOST_FORM_FIELDS, items_are_complete, put
from models.errors import InvalidRequest

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ENCODED = base64.b64encode(PIXEL).decode()
MAKING = {
    "model": "painter",
    "n": 2,
    "size": "64x64",
    "quality": "low",
    "seed": 5,
    "scheduler": "fake",
    "loras": [{"name": "pixel-art", "weight": 0.5}],
    "output_format": "jpeg",
    "output_compression": 50,
    "background": "opaque",
    "response_format": "b64_json",
    "user": "me",
}
PROMPTED = {
    "prompt": "a cat",
    "negative_prompt": "rain",
    "guidance": 3,
    "controls": [{"type": "canny", "image": ENCODED, "weight": 1}],
}
VALID = {
    "/v1/images/generations": MAKING | PROMPTED | {"stream": True, "partial_images": 1, "progress": True},
    "/v1/images/edits": MAKING | PROMPTED | {"image": ENCODED, "mask": ENCODED, "strength": 0.5},
    "/v1/images/variations": MAKING | {"image": ENCODED, "strength": 0.5},
    "/v1/images/upscales": {"model": "upscaler", "image": ENCODED, "scale": 4, "output_format": "webp"},
    "/v1/images/styles": {"model": "styler", "image": ENCODED, "style_image": ENCODED, "strength": 0.5},
}
PATHS = list(VALID)
FORMS = [path for path in PATHS if path != "/v1/images/generations"]
JSON = {"content-type": "application/json"}


@pytest.fixture
def image_app(shared_image_app):
    """What is refused changes nothing in it."""
    return shared_image_app


def of_form(boundary: str = "b") -> dict[str, str]:
    return {"content-type": f"multipart/form-data; boundary={boundary}"}


def part(name: str, value: bytes, file: bool = False) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"' + ('; filename="a"' if file else "")
    return head.encode() + b"\r\n\r\n" + value + b"\r\n"


@pytest.mark.parametrize("path", PATHS)
async def test_the_bodies_that_are_spoiled_here_are_valid(images, path):
    response = await images.post(path, json=VALID[path])
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", FORMS)
async def test_they_are_valid_as_forms(images, path):
    fields = {name: json.dumps(value) if isinstance(value, list) else str(value) for name, value in VALID[path].items()}
    files = {name: (None, value) for name, value in fields.items()}
    response = await images.post(path, files=files)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("content_type", [None, "", "text/plain", "image/png", "application/x-www-form-urlencoded"])
async def test_a_body_of_another_content_type_is_refused(images, assert_error, path, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    assert_error(await images.post(path, content=PIXEL, headers=headers), 415, "unsupported_media_type")


async def test_generations_take_no_form(images, assert_error):
    assert_error(await images.post("/v1/images/generations", files={"prompt": (None, "a")}), 415)


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize(
    ("content_type", "raw"),
    [
        ("multipart/form-data", b"--b\r\n"),
        ("multipart/form-data; boundary=", b"--b\r\n"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"nonsense"),
        ("multipart/form-data; boundary=b", b"--b"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n\r\n--b--"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="image\r\n\r\nx\r\n--b--'),
        ("multipart/form-data; boundary=b", part("image", PIXEL, file=True)),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"x" * 100_000 + b"\r\n\r\n--b--"),
        ("multipart/form-data; boundary=b; charset=hex", part("prompt", b"\xff") + b"--b--"),
        ("multipart/form-data; boundary=b; charset=utf-16", part("prompt", b"\xff") + b"--b--"),
        ("multipart/form-data; boundary=b; charset=nothing", part("prompt", b"\xff") + b"--b--"),
        ("multipart/form-data; boundary=" + "b" * 5000, b"--" + b"b" * 5000),
        ("multipart/form-data; boundary=\xff", b"--\xff\r\n"),
        ("multipart/form-data; boundary=b", b"".join(part(f"f{number}", b"") for number in range(500)) + b"--b--"),
        ("multipart/form-data; boundary=b", part("image", PIXEL, file=True) * (MOST_FILES + 1) + b"--b--"),
        ("multipart/form-data; boundary=b", part("image[]", b"") * (MOST_FORM_FIELDS + 1) + b"--b--"),
        ("multipart/form-data; boundary=b", part("\xe9\x00", b"\x00") + b"--b--"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_broken_form_is_refused(images, assert_error, path, content_type, raw):
    response = await images.post(path, content=raw, headers={"content-type": content_type.encode("latin-1")})
    assert_error(response, 400)


@pytest.mark.parametrize("name", ["a[b]c", "[]", "[a]", "a[][][]", "a[[]]", "a]", "loras[0][name][x]", "a" * 500, ""])
async def test_a_field_of_a_strange_name_is_refused(images, assert_error, name):
    raw = part("image", PIXEL, file=True) + part(name, b"1") + b"--b--"
    assert_error(await images.post("/v1/images/variations", content=raw, headers=of_form()), 400)


async def test_a_body_over_the_limit_is_refused_while_it_is_read(image_router, open_http, assert_error):
    sent = 0

    async def chunks():
        nonlocal sent
        yield part("image", b"", file=True)[:-2]
        for _ in range(100):
            sent += 1000
            yield b"x" * 1000

    async with open_http(image_router(body_limit=10_000)) as http:
        response = await http.post("/v1/images/variations", content=chunks(), headers=of_form())
    assert_error(response, 413, "payload_too_large")
    assert sent <= 12_000


async def test_nothing_that_is_sent_touches_a_disk(image_router, open_http, png, monkeypatch):
    def rolled(self):
        raise AssertionError("a file of a client was written to a disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rolled)
    padded = png() + b"\0" * (3 << 20)
    async with open_http(image_router()) as http:
        response = await http.post("/v1/images/variations", files={"image": padded})
    assert response.status_code == 200, response.text


# Names of form fields

TWO = {"a": [{"x": "1", "y": "2"}, {"x": "3", "y": "4"}]}


@pytest.mark.parametrize(
    ("fields", "document"),
    [
        ([("a", "1"), ("b", "2")], {"a": "1", "b": "2"}),
        ([("a", "1"), ("a", "2"), ("a", "3")], {"a": ["1", "2", "3"]}),
        ([("a[]", "1")], {"a": ["1"]}),
        ([("a[]", "1"), ("a[]", "2")], {"a": ["1", "2"]}),
        ([("a[x]", "1"), ("a[y]", "2")], {"a": {"x": "1", "y": "2"}}),
        ([("a[][x]", "1"), ("a[][y]", "2"), ("a[][x]", "3"), ("a[][y]", "4")], TWO),
        ([("a[][x]", "1"), ("a[][x]", "3"), ("a[][y]", "2"), ("a[][y]", "4")], TWO),
    ],
)
def test_brackets_in_names_make_lists_and_objects(fields, document):
    made = {}
    for name, value in fields:
        put(made, name, value)
    items_are_complete(made)
    assert made == document


@pytest.mark.parametrize(
    "fields",
    [
        [("a", "1"), ("a[]", "2")],
        [("a", "1"), ("a[x]", "2")],
        [("a[]", "1"), ("a[x]", "2")],
        [("a[x]", "1"), ("a", "2")],
        [("a[][x]", "1"), ("a[][x]", "2"), ("a[][y]", "3")],
        [("a[]", "1"), ("a[][x]", "2"), ("a[][x]", "2"), ("a[][y]", "2")],
    ],
)
def test_names_that_contradict_each_other_are_refused(fields):
    made = {}

    def fill():
        for name, value in fields:
            put(made, name, value)
        items_are_complete(made)

    with pytest.raises(InvalidRequest):
        fill()


# Anything at all


WRONG = [None, True, 5, -1, 1.5, 10**400, 1e308, "", "x", "\x00", [], [None], [[[1]]], {}, {"a": 1}, [True], ENCODED]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("count", [3, pytest.param(len(WRONG), marks=pytest.mark.matrix)])
async def test_a_wrong_type_in_any_field_is_no_server_error(images, assert_error, path, count):
    for field in VALID[path]:
        for wrong in random.sample(WRONG, count):
            response = await images.post(path, content=json.dumps(VALID[path] | {field: wrong}), headers=JSON)
            assert response.status_code < 500, (field, wrong, response.text)
            if response.status_code != 200:
                assert_error(response)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(
        ["painter", "64x64", "auto", "transparent", "url", "data:;base64,AA==", ENCODED, 1 << 63, "canny"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def spoiled(draw):
    """An endpoint and its valid body with one to three fields replaced, removed or added."""
    path = draw(st.sampled_from(PATHS))
    body = copy.deepcopy(VALID[path])
    for _ in range(draw(st.integers(1, 3))):
        field = draw(st.sampled_from([*body, "image_url", "images", "steps", "style"]))
        if draw(st.booleans()):
            body[field] = draw(values)
        else:
            body.pop(field, None)
    return path, body


def never_a_server_error(response, assert_error):
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert_error(response)


@pytest.mark.parametrize("examples", [50, pytest.param(1000, marks=pytest.mark.matrix)])
def test_no_spoiled_body_is_a_server_error(image_app, post_each, assert_error, examples):
    @settings(max_examples=examples)
    @given(spoiled())
    def refused_or_answered(case):
        path, body = case
        never_a_server_error(post_each(image_app, path, content=json.dumps(body), headers=JSON), assert_error)

    refused_or_answered()


names = st.sampled_from(["image", "image[]", "mask", "prompt", "n", "loras", "loras[][name]", "controls[][image]", "x"])
contents = st.binary(max_size=40) | st.sampled_from([PIXEL, b"1", b"2", b"true", b"[]", b'[{"name": "pixel-art"}]'])


@st.composite
def forms(draw):
    """An endpoint and a form of some parts, with or without a proper end."""
    parts = draw(st.lists(st.tuples(names | st.text(max_size=8), contents, st.booleans()), max_size=6))
    raw = b"".join(part(name.encode("utf-8", "replace").decode(), value, file) for name, value, file in parts)
    return draw(st.sampled_from(FORMS)), raw + draw(st.binary(max_size=10) | st.just(b"--b--"))


@pytest.mark.parametrize("examples", [50, pytest.param(1000, marks=pytest.mark.matrix)])
def test_no_form_is_a_server_error(image_app, post_each, assert_error, examples):
    @settings(max_examples=examples)
    @given(forms())
    def refused_or_answered(case):
        path, raw = case
        never_a_server_error(post_each(image_app, path, content=raw, headers=of_form()), assert_error)

    refused_or_answered()


@pytest.mark.parametrize("host", ["", "a b", "\xff", "[::1", "a/b?c", "x" * 5000])
async def test_a_strange_host_is_no_server_error(images, host):
    body = {"model": "painter", "prompt": "a", "response_format": "url"}
    response = await images.post("/v1/images/generations", json=body, headers={"host": host.encode("latin-1")})
    assert response.status_code < 500, response.text


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
@pytest.mark.parametrize("examples", [4, pytest.param(60, marks=pytest.mark.matrix)])
def test_the_endpoints_do_what_their_document_says(image_app, hold_to_its_document, mode, examples):
    api = schemathesis.openapi.from_asgi("/openapi.json", image_app)
    tried = hold_to_its_document(
        api, mode, examples, lambda one: one.path.startswith("/v1/images/") and one.method != "get"
    )
    assert {path for path, _ in tried} == set(PATHS)
    if examples > 4:
        assert {(path, "multipart/form-data") for path in FORMS} <= tried
