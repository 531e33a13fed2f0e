"""Bodies of JSON: how much of what is read, in which charset, and compressed not at all."""

import gzip
import json
import zlib

import pytest

from deployments.router import wire
from deployments.router.wire import AT_ONCE, MOST_CONTAINERS, MOST_VALUES, document_of, too_much, without_strings
from models.errors import PayloadTooLarge

EMBEDDINGS = "all-minilm-l6-v2"
JSON = {"content-type": "application/json"}
HELLO = json.dumps({"model": EMBEDDINGS, "input": "Hello"}).encode()


@pytest.fixture
def application(shared_application):
    return shared_application


@pytest.mark.parametrize(
    "values",
    ["[]", "{}", "[1]", '{"a":1}', '{"a" : 1}', "[[[[[]]]]]", '{"role":"user","content":"a"}', '[{"a":[]},"["]'],
)
def test_more_lists_objects_and_fields_than_the_bound_are_refused(values):
    each = too_many(values)
    fits = "[" + ",".join([values] * ((MOST_CONTAINERS - 1) // each)) + "]"
    assert len(document_of(fits.encode())) == (MOST_CONTAINERS - 1) // each
    with pytest.raises(PayloadTooLarge, match="65,536 lists, objects and fields"):
        document_of(b"[" + b",".join([values.encode()] * (MOST_CONTAINERS // each + 1)) + b"]")


def too_many(values: str) -> int:
    """How many lists, objects and fields a piece of JSON has, counted on what Python makes of it."""

    def count(value) -> int:
        if isinstance(value, list):
            return 1 + sum(map(count, value))
        return 1 + len(value) + sum(map(count, value.values())) if isinstance(value, dict) else 0

    return count(json.loads(values))


def test_more_values_than_the_bound_are_refused():
    with pytest.raises(PayloadTooLarge, match="values"):
        document_of(b"[" + b"1," * (MOST_VALUES + 1) + b"1]")


@pytest.mark.parametrize("text", ["[", "{:", '\\"[', "\\\\[", '\\\\\\"{', "[\\n", "\\u0041[", '","[', ":,"])
def test_what_stands_in_texts_is_not_counted(text):
    raw = b'{"a":["' + text.encode() * MOST_CONTAINERS + b'"]}'
    read = document_of(raw)["a"]
    outside = without_strings(raw)
    if len(read) == 1:
        assert outside.translate(None, b",") == b"{:["
    assert too_much(outside) is None


async def test_a_long_text_of_brackets_is_too_long_and_not_too_much(http, assert_error):
    raw = json.dumps({"model": EMBEDDINGS, "input": "[{ " * MOST_CONTAINERS})
    assert_error(await http.post("/v1/embeddings", content=raw, headers=JSON), 400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/v1/embeddings", b'{"input":[' + b"[]," * 100_000 + b"[]]}"),
        ("/v1/chat/completions", b'{"messages":[' + b"{}," * 100_000 + b"{}]}"),
        ("/v1/estimate", b'{"model":"a","x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}"),
        ("/tokenize", b"[" * 1_000_000),
    ],
)
async def test_too_much_is_a_413_that_names_the_bound(http, assert_error, path, raw):
    error = assert_error(await http.post(path, content=raw, headers=JSON), 413, "payload_too_large")
    assert "65,536" in error["message"]


async def test_large_bodies_are_read_between_the_loops_turns_and_with_the_same_answer(http, monkeypatch):
    threads = []
    to_thread = wire.asyncio.to_thread

    async def noted(read, raw):
        threads.append(len(raw))
        return await to_thread(read, raw)

    monkeypatch.setattr(wire.asyncio, "to_thread", noted)
    small = await http.post("/v1/embeddings", content=HELLO, headers=JSON)
    large = await http.post("/v1/embeddings", content=HELLO + b" " * AT_ONCE, headers=JSON)
    assert small.json() == large.json()
    assert threads == [len(HELLO) + AT_ONCE]
    wrong = b'{"model":"a","input":[' + b"1," * AT_ONCE + b'"a"]}'
    assert (await http.post("/v1/embeddings", content=wrong, headers=JSON)).status_code == 400


async def test_a_byte_order_mark_is_passed_over(http):
    response = await http.post("/v1/embeddings", content=b"\xef\xbb\xbf" + HELLO, headers=JSON)
    assert response.status_code == 200


@pytest.mark.parametrize("raw", [HELLO.decode().encode("utf-16"), HELLO.decode().encode("utf-32"), b"\xff" + HELLO])
async def test_another_encoding_is_not_valid_json(http, assert_error, raw):
    assert (
        "not valid JSON" in assert_error(await http.post("/v1/embeddings", content=raw, headers=JSON), 400)["message"]
    )


@pytest.mark.parametrize("charset", ["utf-16", "punycode", "latin1", "hex", '"utf-7"', "\xff"])
async def test_a_charset_other_than_utf_8_is_refused(http, assert_error, charset):
    headers = {"content-type": f"application/json; charset={charset}".encode("latin-1")}
    response = await http.post("/v1/embeddings", content=HELLO, headers=headers)
    assert "UTF-8" in assert_error(response, 415, "unsupported_media_type")["message"]


@pytest.mark.parametrize("more", [";" * 7000, ";a=b" * 2000, '; a="' + ";" * 3000 + '"'])
async def test_a_type_with_parameters_without_end_is_refused(http, assert_error, more):
    response = await http.post("/v1/embeddings", content=HELLO, headers={"content-type": f"application/json{more}"})
    assert "parameters" in assert_error(response, 400)["message"]


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "utf8", "us-ascii"])
async def test_utf_8_by_any_spelling_is_taken(http, charset):
    headers = {"content-type": f"application/json; charset={charset}"}
    assert (await http.post("/v1/embeddings", content=HELLO, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("coding", "raw"),
    [
        ("gzip", gzip.compress(HELLO)),
        ("deflate", zlib.compress(HELLO)),
        ("br", HELLO),
        ("zstd", HELLO),
        ("identity, gzip", gzip.compress(HELLO)),
        ("GZIP", HELLO),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_compressed_body_is_a_415_that_says_so(http, assert_error, coding, raw):
    response = await http.post("/v1/embeddings", content=raw, headers={**JSON, "content-encoding": coding})
    assert "uncompressed" in assert_error(response, 415, "unsupported_media_type")["message"]
    assert response.headers["accept-encoding"] == "identity"


async def test_identity_is_no_compression(http):
    response = await http.post("/v1/embeddings", content=HELLO, headers={**JSON, "content-encoding": "identity"})
    assert response.status_code == 200
