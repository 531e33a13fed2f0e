"""Whatever is sent about pictures, the answer is a 4xx in OpenAI's form, never a 5xx."""

import tempfile

import pytest
from bodies import BODIES, PIXEL

from deployments.router import middleware
from deployments.router.multipart import MOST_FILES, MOST_FORM_FIELDS, items_are_complete, put
from models.errors import InvalidRequest

FORMS = [path for path in BODIES if path.startswith("/v1/images/") and path != "/v1/images/generations"]
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
        ("multipart/form-data; boundary=b", part("prompt", b"\xff") + b"--b--"),
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


async def test_a_body_over_the_limit_is_refused_while_it_is_read(image_router, open_http, assert_error, monkeypatch):
    monkeypatch.setattr(middleware, "LINGERS", 0)
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


@pytest.mark.parametrize("host", ["", "a b", "\xff", "[::1", "a/b?c", "x" * 5000])
async def test_a_strange_host_is_no_server_error(images, host):
    body = {"model": "painter", "prompt": "a", "response_format": "url"}
    response = await images.post("/v1/images/generations", json=body, headers={"host": host.encode("latin-1")})
    assert response.status_code < 500, response.text
