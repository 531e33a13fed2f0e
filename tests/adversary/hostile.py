"""Hostile requests of many kinds, made from a seed: another seed gives other members of the same kinds."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import string
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sending import Manner, Request, http_request

CHAT, EMBEDDINGS, IMAGES = "smollm2-135m-instruct", "all-minilm-l6-v2", "doodle"
ASLEEP = {
    "/v1/images/generations": "doodle-turbo",
    "/v1/images/upscales": "realesr-animevideov3",
    "/v1/images/styles": "magenta-styles",
}
VOCABULARY = {CHAT: 49152, EMBEDDINGS: 30522}
JSON = "Content-Type: application/json"
MIB = 1 << 20
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize", "/v1/estimate")
PICTURE_PATHS = ("/v1/images/generations", "/v1/images/edits", "/v1/images/variations")
READ_PATHS = ("/healthz", "/readyz", "/v1/models", f"/v1/models/{CHAT}", "/docs", "/openapi.json")

KINDS: dict[str, Callable[[random.Random], Request]] = {}
# The bytes, or a request that is more than its bytes.
Made = bytes | Request


def kind(function: Callable[[random.Random], Made]) -> Callable[[random.Random], Made]:
    name = function.__name__

    def make(draw: random.Random) -> Request:
        made = function(draw)
        return replace(made, kind=name) if isinstance(made, Request) else Request(name, made)

    KINDS[name] = make
    return function


def plan(seed: int, members: int) -> list[tuple[str, int]]:
    """Names of kinds and seeds of requests, each kind so many times, in an order of the seed."""
    draw = random.Random(seed)
    chosen = [(name, draw.getrandbits(32)) for name in KINDS for _ in range(members)]
    draw.shuffle(chosen)
    return chosen


def made(name: str, seed: int) -> Request:
    return KINDS[name](random.Random(seed))


# --- parts of requests -----------------------------------------------------------------------------------------------


def posted(path: str, document: Any, *headers: str) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return http_request(f"POST {path} HTTP/1.1", body, *(headers or (JSON,)))


def chat(draw: random.Random, **fields: Any) -> dict[str, Any]:
    text = f"Say {draw.choice(['hi', 'a word', 'nothing'])} {draw.randrange(1000)}."
    return {"model": CHAT, "messages": [{"role": "user", "content": text}], "max_tokens": 4} | fields


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": CHAT, "prompt": "Hello", "max_tokens": 2} | fields


def embedding(value: Any = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": EMBEDDINGS, "input": value} | fields


def picture(**fields: Any) -> dict[str, Any]:
    return {"model": IMAGES, "prompt": "a red circle"} | fields


def body_for(draw: random.Random, path: str) -> dict[str, Any]:
    """A valid body."""
    return {
        "/v1/chat/completions": chat(draw),
        "/v1/completions": completion(),
        "/v1/embeddings": embedding(),
        "/tokenize": {"model": CHAT, "prompt": "Hello"},
        "/detokenize": {"model": EMBEDDINGS, "tokens": [1, 2]},
        "/v1/estimate": chat(draw),
        "/v1/images/generations": picture(),
        "/v1/images/edits": picture(image=encoded(png(64, 64))),
        "/v1/images/variations": {"model": IMAGES, "image": encoded(png(64, 64))},
    }[path]


def word(draw: random.Random, most: int = 8) -> str:
    return "".join(draw.choices(string.ascii_lowercase, k=draw.randint(1, most)))


def odd_bytes(draw: random.Random, least: int = 1, most: int = 12) -> bytes:
    """What may stand in a header's value by some servers, and is not ASCII."""
    return bytes(draw.choice([0x09, 0x20, *range(0x80, 0x100)]) for _ in range(draw.randint(least, most)))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, deep: int = 8, rows: bytes | None = None) -> bytes:
    """An RGB picture of one colour. Its rows are compressed without being in memory at once."""
    if rows is None:
        packer, row = zlib.compressobj(9), b"\0" * (1 + 3 * width * deep // 8)
        many = max(1, MIB // len(row))
        rows = b"".join(packer.compress(row * min(many, height - at)) for at in range(0, height, many)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, deep, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(side: int = 64, **options: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(file, "JPEG", **options)
    return file.getvalue()


def many_scans(draw: random.Random) -> bytes:
    """A progressive jpeg whose last scan comes again and again."""
    data = jpeg(draw.choice([512, 2048, 4096]), progressive=True, quality=30)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    return data[:last] + scan * min(4000, 6 * MIB // len(scan)) + data[-2:]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def form(draw: random.Random, *parts: tuple[str, bytes], end: bytes | None = None, boundary: str = "b0undary") -> bytes:
    """A form's body; each part is what follows `name=` in its header, and its content."""
    mark = boundary.encode("latin-1")
    text = b"".join(
        b'--%b\r\nContent-Disposition: form-data; name="%b\r\n\r\n%b\r\n' % (mark, name.encode("latin-1"), value)
        for name, value in parts
    )
    return text + (b"--%b--\r\n" % mark if end is None else end)


def edit_form(draw: random.Random, *more: tuple[str, bytes], **options: Any) -> bytes:
    parts = [('model"', IMAGES.encode()), ('prompt"', b"a red circle"), ('image"; filename="a.png"', png(64, 64))]
    return form(draw, *parts, *more, **options)


def sent_form(
    body: bytes, kind: str = "multipart/form-data; boundary=b0undary", path: str = "/v1/images/edits"
) -> bytes:
    return http_request(f"POST {path} HTTP/1.1", body, f"Content-Type: {kind}")


# --- what the models behind are given --------------------------------------------------------------------------------


@kind
def token_ids(draw: random.Random) -> Made:
    """Ids that a model does not have, in every field that takes ids."""
    model = draw.choice([CHAT, EMBEDDINGS])
    bad = draw.choice(
        [
            VOCABULARY[model],
            VOCABULARY[model] + draw.randrange(1, 5000),
            -1,
            (1 << 31) - 1,
            1 << 31,
            1 << 63,
            10**30,
            1.5,
        ]
    )
    ids: list[float] = [draw.randrange(20, 20_000) for _ in range(draw.randrange(4))]
    ids.insert(draw.randint(0, len(ids)), bad)
    if model == EMBEDDINGS:
        return draw.choice(
            [
                lambda: posted("/v1/embeddings", embedding(draw.choice([ids, [[5], ids]]))),
                lambda: posted("/v1/embeddings", embedding(ids, truncate_prompt_tokens=draw.choice([-1, 1, 5]))),
                lambda: posted("/detokenize", {"model": model, "tokens": ids}),
            ]
        )()
    return draw.choice(
        [
            lambda: posted("/v1/completions", completion(prompt=draw.choice([ids, [[1, 2], ids]]))),
            lambda: posted("/v1/completions", completion(prompt=ids, truncate_prompt_tokens=draw.choice([1, 2, -1]))),
            lambda: posted("/v1/completions", completion(prompt=ids, echo=True, logprobs=1)),
            lambda: posted("/detokenize", {"model": model, "tokens": ids}),
            lambda: posted("/v1/chat/completions", chat(draw, stop_token_ids=ids)),
            lambda: posted("/v1/chat/completions", chat(draw, allowed_token_ids=ids)),
            lambda: posted("/v1/chat/completions", chat(draw, logit_bias={str(one): 100 for one in ids})),
            lambda: posted("/v1/completions", completion(logit_bias={str(bad): -100}, stream=True)),
        ]
    )()


def exploding_schema(draw: random.Random) -> Any:
    n = draw.choice([7, 20, 60, 1000, 100_000])
    text: dict[str, Any] = {"type": "string"}

    def deep(schema: Any, levels: int) -> Any:
        for _ in range(levels):
            schema = draw.choice([{"type": "array", "items": schema}, {"type": "object", "properties": {"a": schema}}])
        return schema

    return draw.choice(
        [
            lambda: text | {"pattern": f"^(.{{0,{n}}}){{0,{n}}}$"},
            lambda: text | {"pattern": "(" * 40 + "a" + "+)" * 40},
            lambda: text | {"pattern": f"^(a|b|ab){{1,{n}}}c{{{n}}}$"},
            lambda: text | {"pattern": f"[\\u0000-\\uffff]{{{n},{2 * n}}}"},
            lambda: text | {"pattern": "".join(f"(x{number}|y)?" for number in range(n % 997))},
            lambda: (
                text | {"pattern": draw.choice(["^+[a-z]$", "[a-", "\\p{L}+", "(?=a)b", "(a)\\1", "\x00", "a{9,1}"])}
            ),
            lambda: text | {"maxLength": n, "minLength": n // 2},
            lambda: {"type": "object", "properties": {f"p{i}": text for i in range(min(n, 5000))}},
            lambda: {"enum": [f"{i}{word(draw)}" for i in range(n)]},
            lambda: deep(text, min(n, 400)),
            lambda: {"type": "array", "items": deep(text, 3), "minItems": n, "maxItems": 2 * n},
            lambda: {"$ref": draw.choice(["#", "#/$defs/none", "http://127.0.0.1:8265/x", "file:///etc/passwd"])},
            lambda: {
                "$defs": {
                    f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{(i + k) % 30}"} for k in (1, 2, 3)]} for i in range(30)
                },
                "$ref": "#/$defs/d0",
            },
            lambda: {
                "anyOf": [{"type": "object", "properties": {f"k{i}{k}": text for k in range(20)}} for i in range(60)]
            },
            lambda: {"type": "integer", "minimum": -(10**n % 10**40), "maximum": 10**25},
            lambda: {"not": {"type": "string"}, "if": {}, "then": {"$ref": "#"}},
            lambda: {"type": draw.choice(["objct", 5, [], ["string"] * 500, None])},
        ]
    )()


@kind
def schemas_that_explode(draw: random.Random) -> Made:
    schema = exploding_schema(draw)
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    holder = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": holder, "strict": draw.random() < 0.5}}
    return draw.choice(
        [
            lambda: posted("/v1/chat/completions", chat(draw, response_format=shape)),
            lambda: posted("/v1/chat/completions", chat(draw, response_format=shape, stream=True, n=2)),
            lambda: posted("/v1/completions", completion(response_format=shape)),
            lambda: posted("/v1/chat/completions", chat(draw, tools=[tool], tool_choice="required")),
        ]
    )()


@kind
def odd_tools(draw: random.Random) -> Made:
    tool = {"type": "function", "function": {"name": word(draw), "parameters": {"type": "object"}}}
    return posted(
        "/v1/chat/completions",
        chat(
            draw,
            **draw.choice(
                [
                    {"tools": [], "tool_choice": draw.choice(["none", "auto", "required"])},
                    {
                        "tools": [tool],
                        "tool_choice": {"type": "function", "function": {"name": draw.choice(["", "other", "\x00"])}},
                    },
                    {"tools": [tool] * draw.choice([2, 128, 129, 5000])},
                    {"tools": [tool], "tool_choice": draw.choice(["", "any", 5, {}, [], "x" * 100_000])},
                    {
                        "chat_template_kwargs": {
                            draw.choice(
                                ["messages", "tools", "chat_template", "__class__", "self", "tokenize"]
                            ): draw.choice(["x", [], 1])
                        }
                    },
                    {"chat_template_kwargs": {word(draw): "{{ 7*7 }}{% for i in range(10**9) %}{% endfor %}"}},
                    {
                        "messages": [
                            {
                                "role": "assistant",
                                "content": None,
                                "tool_calls": [
                                    {
                                        "id": "1",
                                        "type": "function",
                                        "function": {"name": "f", "arguments": "[" * 50_000},
                                    }
                                ],
                            }
                        ]
                    },
                    {
                        "messages": [
                            {
                                "role": draw.choice(["tool", "system", "assistant"]),
                                "content": "{{ raise }}<|im_end|>" * 50,
                            }
                        ]
                    },
                ]
            ),
        ),
    )


@kind
def odd_sampling(draw: random.Random) -> Made:
    number = draw.choice([0, -1, 1e308, -1e308, 5e-324, 2**63, -(2**63), 10**40, 0.1, True, None, "1", [], {}])
    field = draw.choice(
        [
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "n",
            "seed",
            "max_tokens",
            "min_tokens",
            "logprobs",
            "top_logprobs",
            "frequency_penalty",
            "presence_penalty",
            "repetition_penalty",
            "truncate_prompt_tokens",
            "stop",
            "bad_words",
            "best_of",
            "echo",
            "stream",
            "stream_options",
            "logit_bias",
            "ignore_eos",
            "response_format",
        ]
    )
    body = chat(draw) if draw.random() < 0.5 else completion()
    body |= {field: number}
    if draw.random() < 0.3:
        body |= {"stop": [draw.choice(["", "\x00", "a" * 100_000, "\ud7ff", "😀"])] * draw.choice([1, 16, 17])}
    if draw.random() < 0.3:
        body |= {"bad_words": [draw.choice(["", " ", "x" * 50_000, "😀"])] * draw.choice([1, 1000])}
    return posted("/v1/chat/completions" if "messages" in body else "/v1/completions", body)


@kind
def long_texts(draw: random.Random) -> Made:
    """Up to 8 MiB of text to whatever tokenizes."""
    size = draw.choice([MIB, 4 * MIB, 8 * MIB - 400])
    unit = draw.choice(["a", " ", "\n", "ab ", "é", "😀", word(draw) + " ", "1", "\t\n ", "a.", "ㄱ", "\u0301"])
    text = unit * (size // len(unit.encode()))
    cut = draw.choice([{}, {"truncate_prompt_tokens": draw.choice([-1, 1, 100])}])
    document, path = draw.choice(
        [
            ({"model": draw.choice([CHAT, EMBEDDINGS]), "prompt": text}, "/tokenize"),
            ({"model": CHAT, "messages": [{"role": "user", "content": text}]}, "/tokenize"),
            (embedding(text) | cut, "/v1/embeddings"),
            (embedding([text[: len(text) // 8]] * 8) | cut, "/v1/embeddings"),
            (chat(draw, messages=[{"role": "user", "content": text}]) | cut, "/v1/chat/completions"),
            (completion(prompt=text) | cut, "/v1/completions"),
            (picture(prompt=text), "/v1/images/generations"),
            (chat(draw, messages=[{"role": "user", "content": text}]), "/v1/estimate"),
        ]
    )
    return posted(path, json.dumps(document, ensure_ascii=False).encode())


@kind
def multipliers(draw: random.Random) -> Made:
    """Much work for few bytes."""
    return draw.choice(
        [
            lambda: posted("/v1/completions", completion(prompt=["Tell me a long story."] * 4, n=16, max_tokens=2000)),
            lambda: posted(
                "/v1/completions", completion(prompt=["Go on."] * draw.choice([64, 65, 1025, 60_000]), max_tokens=200)
            ),
            lambda: posted(
                "/v1/chat/completions", chat(draw, n=draw.choice([16, 17, 1 << 30]), max_tokens=4000, temperature=1)
            ),
            lambda: posted(
                "/v1/chat/completions",
                chat(draw, n=16, max_tokens=500, stream=True, ignore_eos=True, logprobs=True, top_logprobs=20),
            ),
            lambda: posted("/v1/embeddings", embedding(["word " * 250] * draw.choice([64, 512, 2048, 2049, 20_000]))),
            lambda: posted("/v1/embeddings", embedding([[5] * 256] * 1000)),
            lambda: posted(
                "/v1/images/generations",
                picture(n=draw.choice([10, 40, 41, 1 << 30]), size="128x128", steps=draw.choice([20, 50, 1 << 30])),
            ),
            lambda: posted(
                "/v1/images/generations", picture(n=4, stream=True, partial_images=3, progress=True, quality="hd")
            ),
            lambda: posted("/v1/completions", completion(prompt="x " * 1500, n=16, best_of=16, echo=True, logprobs=5)),
        ]
    )()


@kind
def crowds(draw: random.Random) -> Made:
    """Many of one address, or under invented keys."""
    path = draw.choice(["/v1/embeddings", "/v1/chat/completions", "/v1/images/generations", "/tokenize"])
    raw = posted(path, body_for(draw, path), JSON, f"Authorization: Bearer {draw.getrandbits(64):x}")
    return Request(
        "", raw, client=f"127.0.{draw.randint(1, 250)}.{draw.randint(1, 250)}", connections=draw.choice([8, 12])
    )


# --- bodies ----------------------------------------------------------------------------------------------------------


@kind
def json_bombs(draw: random.Random) -> Made:
    path = draw.choice([*PATHS, *PICTURE_PATHS])
    size = draw.choice([MIB, 4 * MIB, 8 * MIB - 100])

    def filled(start: bytes, unit: bytes, end: bytes) -> bytes:
        return start + unit * ((size - len(start) - len(end)) // len(unit)) + end

    raw = draw.choice(
        [
            lambda: filled(b"[", b"[],", b"[]]"),
            lambda: filled(b"[", b"{},", b"{}]"),
            lambda: b"[" * size,
            lambda: b"[" * (size // 2) + b"]" * (size // 2),
            lambda: b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6),
            lambda: filled(b'{"model":"x","input":[', b"1,", b"1]}"),
            lambda: filled(b'{"input":[', b"[1],", b"[1]]}"),
            lambda: filled(b'{"input":[', b'"a",', b'"a"]}'),
            lambda: filled(b'{"messages":[', b'{"role":"user","content":""},', b"{}]}"),
            lambda: filled(b"", b"9", b""),
            lambda: filled(b'{"temperature":0.', b"9", b"}"),
            lambda: filled(b'{"seed":1e', b"9", b"}"),
            lambda: filled(b'{"model":"', b"\\u0000", b'"}'),
            lambda: filled(b'{"model":"', b"\\ud83d", b'"}'),
            lambda: filled(b'{"a":"', b'\\"[{:,', b'"}'),
            lambda: filled(b"{", b'"a":1,', b'"a":1}'),
            lambda: b"{" + b",".join(b'"%x":1' % number for number in range(size // 12)) + b"}",
            lambda: filled(b"", b" ", b"{}"),
            lambda: filled(b'{"input":"', b"\\/", b'"}'),
            lambda: filled(b'{"logit_bias":{"1":1', b',"2":null', b"}}"),
            lambda: filled(b'{"tools":[', b'{"type":"function","function":{"name":"f"}},', b"{}]}"),
            lambda: filled(b"[", b"null,true,", b"-0]"),
        ]
    )()
    return posted(path, raw)


@kind
def not_json(draw: random.Random) -> Made:
    path = draw.choice([*PATHS, *PICTURE_PATHS])
    valid = json.dumps(body_for(draw, path)).encode()
    at = draw.randrange(len(valid))
    return posted(
        path,
        draw.choice(
            [
                valid[:at],
                valid[:at] + bytes([draw.randrange(256)]) + valid[at + 1 :],
                valid + draw.choice([b"x", b"{}", b"\x00", b"\xff"]),
                valid.replace(b'"', b"'"),
                valid.decode().encode(draw.choice(["utf-16", "utf-32", "utf-16-be", "utf-7", "cp037"])),
                b"\xef\xbb\xbf" * draw.randint(1, 3) + valid,
                draw.randbytes(draw.choice([1, 100, 100_000])),
                draw.choice([b"NaN", b"Infinity", b"null", b"[]", b'""', b"5", b"true", b"", b"-", b"//", b"[1,]"]),
            ]
        ),
    )


@kind
def invalid_utf8(draw: random.Random) -> Made:
    path = draw.choice([*PATHS, *PICTURE_PATHS])
    bad = draw.choice(
        [
            b"\xff",
            b"\xc0\xaf",
            b"\xed\xa0\x80",
            b"\xf8\x88\x80\x80\x80",
            b"\xf4\x90\x80\x80",
            b"\x80",
            b"\xe2\x28",
            b"\\ud800",
            b"\\udfff\\ud800",
            b"\x00",
            b"\\u0000",
        ]
    )
    raw = json.dumps(body_for(draw, path)).encode()
    places = [at for at in range(len(raw)) if raw[at - 1 : at].isalpha() and raw[at : at + 1].isalpha()]
    at = draw.choice(places)
    return posted(path, raw[:at] + bad * draw.choice([1, 1000]) + raw[at:])


@kind
def charsets(draw: random.Random) -> Made:
    """Codecs that a client names, wherever one can be named."""
    codec = draw.choice(
        [
            "punycode",
            "idna",
            "utf-7",
            "utf-16",
            "zlib",
            "bz2",
            "hex",
            "rot13",
            "unicode_escape",
            "raw_unicode_escape",
            "uu",
            "quopri",
            "base64",
            "undefined",
            "mbcs",
            "cp037",
            "iso2022_jp_ext",
            "hz",
            "utf_8_sig",
            "\xff",
            "../x",
            "x" * 9000,
            "",
        ]
    )
    long = ("a" * 200_000 + "-" + "b" * 200_000).encode()
    return draw.choice(
        [
            lambda: posted(
                "/v1/embeddings", embedding("a" * 100_000), f"Content-Type: application/json; charset={codec}"
            ),
            lambda: posted(
                "/v1/chat/completions", chat(draw), f'Content-Type: application/json;charset="{codec}"; charset=utf-8'
            ),
            lambda: sent_form(
                edit_form(draw, ('user"', long)), f"multipart/form-data; boundary=b0undary; charset={codec}"
            ),
            lambda: sent_form(edit_form(draw, ('_charset_"', codec.encode("latin-1")), ('user"', long))),
            lambda: sent_form(edit_form(draw, (f'user"\r\nContent-Type: text/plain; charset={codec}', long))),
            lambda: sent_form(edit_form(draw, (f"user\"; filename*={codec}''{'%41' * 2000}", long))),
            lambda: sent_form(edit_form(draw, (f'user"\r\nContent-Transfer-Encoding: {codec}', long))),
            lambda: sent_form(b"model=doodle&prompt=a" * 1000, f"application/x-www-form-urlencoded; charset={codec}"),
        ]
    )()


@kind
def compressed(draw: random.Random) -> Made:
    path = draw.choice([*PATHS, *PICTURE_PATHS])
    packed = gzip.compress(json.dumps(body_for(draw, path)).encode() + b" " * draw.choice([0, 64 * MIB]), 1)
    coding = draw.choice(
        ["gzip", "deflate", "br", "zstd", "GZIP", "gzip, gzip", "identity, gzip", "x", "\xff", "compress"]
    )
    where = draw.choice(["Content-Encoding", "Transfer-Encoding", "Content_Encoding"])
    made = http_request(f"POST {path} HTTP/1.1", packed, JSON, f"{where}: {coding}")
    return Request("", made, is_http=where != "Transfer-Encoding")


NO_LENGTHS = ("-1", "0x2", "2, 3", "+2", "2 2", "", "\xd9\xa2")


@kind
def bodies_over_the_limit(draw: random.Random) -> Made:
    path = draw.choice([*PATHS, *PICTURE_PATHS])
    return draw.choice(
        [
            lambda: posted(path, b"x" * draw.choice([9 * MIB, 12 * MIB])),
            lambda: sent_form(b"x" * (9 * MIB)),
            lambda: Request(
                "",
                http_request(
                    f"POST {path} HTTP/1.1", b"{}", JSON, f"Content-Length: {draw.choice([9 << 20, 1 << 40, 10**30])}"
                ),
                is_http=False,
                seconds=25,
            ),
            lambda: Request(
                "",
                http_request(
                    f"POST {path} HTTP/1.1",
                    b"{}",
                    JSON,
                    f"Content-Length: {draw.choice(NO_LENGTHS)}",
                ),
                is_http=False,
                seconds=25,
            ),
            lambda: http_request(
                f"POST {path} HTTP/1.1",
                b"%x\r\n%b\r\n0\r\n\r\n" % (9 * MIB, b"x" * (9 * MIB)),
                JSON,
                "Transfer-Encoding: chunked",
            ),
            lambda: http_request(
                f"POST {path} HTTP/1.1",
                b"{}",
                JSON,
                f"Expect: {draw.choice(['100-continue', 'x', '100-continue, x', ''])}",
            ),
        ]
    )()


NO_BOUNDARIES = ("", "other", "x" * 300, "\xff", '"', "b0undary; boundary=x", "b0undar")


@kind
def cut_forms(draw: random.Random) -> Made:
    whole = edit_form(draw, ('mask"; filename="m.png"', png(64, 64)), ('seed"', b"5"))
    return draw.choice(
        [
            lambda: sent_form(whole[: draw.randrange(20, len(whole))]),
            lambda: sent_form(
                whole,
                f"multipart/form-data; boundary={draw.choice(NO_BOUNDARIES)}",
            ),
            lambda: sent_form(form(draw, *[(f'x{number}"', b"") for number in range(draw.choice([201, 20_000]))])),
            lambda: sent_form(
                edit_form(draw, *[('image[]"; filename="a"', b"") for _ in range(draw.choice([33, 5000]))])
            ),
            lambda: sent_form(
                edit_form(draw, ('x"\r\n' + "".join(f"X-{n}: {n}\r\n" for n in range(20_000)) + "y: z", b"a"))
            ),
            lambda: sent_form(edit_form(draw, ('x"\r\nX-Long: ' + "y" * MIB, b"a"))),
            lambda: sent_form(
                edit_form(
                    draw,
                    (draw.choice(["", "a" * MIB, "loras[][name]", "controls[" * 5000, "\x00", "\xff"]) + '"', b"a"),
                )
            ),
            lambda: sent_form(b"--b0undary\r\n" * 50_000),
            lambda: sent_form(b"\r\n--b0undar" * 50_000),
            lambda: sent_form(draw.randbytes(100_000)),
            lambda: sent_form(edit_form(draw, end=b"--b0undary")),
            lambda: sent_form(edit_form(draw, ('loras"', b"[" * 100_000), ('n"', b"9" * 100_000))),
            lambda: sent_form(b"preamble" * 100_000 + b"\r\n" + whole),
        ]
    )()


def picture_bomb(draw: random.Random) -> bytes:
    packed = zlib.compress(b"\0" * (32 * MIB), 9)
    exif = (
        b"Exif\0\0II*\0\x08\0\0\0"
        + struct.pack("<H", 5000)
        + b"".join(struct.pack("<HHII", 0x1000 + number, 7, 60_000, 0) for number in range(5000))
    )
    side = draw.choice([1500, 4000, 4096])
    return draw.choice(
        [
            lambda: png(side, side),
            lambda: png(2, draw.choice([500_000, 8_000_000])),
            lambda: png(8_000_000, 2),
            lambda: png(2000, 2000, deep=16),
            lambda: png(65_535, 65_535, rows=zlib.compress(b"\0" * MIB)),
            lambda: png((1 << 31) - 1, (1 << 31) - 1, rows=b""),
            lambda: png(64, 64, chunk(b"zTXt", b"Comment\0\0" + packed)),
            lambda: png(64, 64, chunk(b"iCCP", b"p\0\0" + packed)),
            lambda: png(64, 64, *[chunk(b"tEXt", b"a\0b")] * 100_000),
            lambda: png(64, 64, chunk(b"eXIf", exif[6:])),
            lambda: png(64, 64, chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))),
            lambda: png(64, 64, chunk(b"acTL", struct.pack(">II", 1 << 30, 0))),
            lambda: png(64, 64, rows=zlib.compress(b"\0" * (200 * MIB), 9)),
            lambda: many_scans(draw),
            lambda: jpeg(exif=exif[: draw.choice([100, 60_000])]),
            lambda: jpeg(3000, progressive=True),
            lambda: b"".join([jpeg()[:2], b"\xff\xfe\0\2" * 500_000, jpeg()[2:]]),
            lambda: jpeg()[: draw.randrange(4, 600)],
            lambda: b"RIFF\xff\xff\xff\xffWEBPVP8L" + draw.randbytes(200),
            lambda: b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\xff\xff\xff\xff\xff",
            lambda: (
                draw.choice([b"GIF89a", b"BM", b"II*\0", b"\0\0\1\0", b"<svg/>", b"%PDF", b"%!PS"])
                + draw.randbytes(300)
            ),
        ]
    )()


@kind
def picture_bombs(draw: random.Random) -> Made:
    """Small files that are large pictures, or that say much of themselves."""
    bomb = picture_bomb(draw)
    fine = png(64, 64)
    image, mask = draw.choice([(bomb, None), (bomb, None), (fine, bomb), (bomb, bomb)])
    if draw.random() < 0.5:
        parts = [('model"', IMAGES.encode()), ('prompt"', b"a"), ('image"; filename="a"', image)]
        return sent_form(form(draw, *parts, *([('mask"; filename="m"', mask)] if mask else [])))
    document: dict[str, Any] = picture(image=encoded(image)) | ({"mask": encoded(mask)} if mask else {})
    path = draw.choice(["/v1/images/edits", "/v1/images/edits", "/v1/images/variations"])
    if path.endswith("variations"):
        document.pop("prompt")
        document.pop("mask", None)
    return posted(path, document)


@kind
def more_picture_bombs(draw: random.Random) -> Made:
    """Several at once, wide outputs, links that are none."""
    bomb = encoded(png(draw.choice([2000, 4000]), 4000))
    return draw.choice(
        [
            lambda: Request(
                "",
                posted(
                    "/v1/images/edits", picture(image=bomb, n=4, output_format=draw.choice(["webp", "png", "jpeg"]))
                ),
                connections=6,
            ),
            lambda: posted("/v1/images/edits", picture(image=encoded(png(17_000, 2)), output_format="webp")),
            lambda: posted(
                "/v1/images/edits",
                picture(
                    image=draw.choice(
                        [
                            "http://127.0.0.1:8265/api/version",
                            "file:///etc/passwd",
                            "data:image/png;base64,",
                            "data:;base64," + "A" * MIB,
                            "AAAA",
                            "=" * MIB,
                            "\x00",
                        ]
                    )
                ),
            ),
            lambda: posted(
                "/v1/images/generations",
                picture(
                    size=draw.choice(["0x0", "1x99999999", "99999x99999", "x", "-64x64", "64x64x64", "6" * 40, "٦٤x٦٤"])
                ),
            ),
            lambda: posted("/v1/images/generations", picture(controls=[{"type": "canny", "image": bomb}] * 8)),
            lambda: posted("/v1/images/generations", picture(loras=[{"name": "x" * 101}] * 17, prompt="\x00" * 1000)),
        ]
    )()


@kind
def models_that_sleep(draw: random.Random) -> Made:
    """Whoever asks a model that sleeps wakes it: many times, and gone before it is up."""
    path = draw.choice(list(ASLEEP))
    body: dict[str, Any] = {"model": ASLEEP[path]}
    body |= {"prompt": "a tree"} if path.endswith("generations") else {"image": encoded(picture_bomb(draw))}
    if path.endswith("styles"):
        body |= {"style": draw.choice(["x", "\x00", 5])} if draw.random() < 0.5 else {"style_image": body["image"]}
    prefer = draw.choice(["wait=0", "wait=1", "wait=1e9", "wait=-1", "wait=nan", 'wait="0', "wait=" + "9" * 400])
    manner = draw.choice([Manner.WHOLE, Manner.LEAVES])
    return Request("", posted(path, body, JSON, f"Prefer: {prefer}"), manner=manner, seconds=30)


# --- headers and paths -----------------------------------------------------------------------------------------------


def spelt(draw: random.Random, name: str) -> str:
    """A header's name in another spelling."""
    return "".join(
        draw.choice("-_") if letter == "-" else draw.choice([letter.lower(), letter.upper()]) for letter in name
    )


def any_request(draw: random.Random, *headers: str | bytes) -> bytes:
    if draw.random() < 0.3:
        return http_request(f"GET {draw.choice(READ_PATHS)} HTTP/1.1", b"", *headers)
    path = draw.choice(PATHS)
    return http_request(f"POST {path} HTTP/1.1", json.dumps(body_for(draw, path)).encode(), JSON, *headers)


@kind
def control_headers(draw: random.Random) -> Made:
    """Those that steer Ray Serve or HAProxy, under all spellings, with odd values."""
    name = draw.choice(
        [
            "x-session-id",
            "x-request-timeout-seconds",
            "x-request-disconnect-disabled",
            "serve-multiplexed-model-id",
            "x-serve-router-a",
            "x-haproxy-a",
            "x-request-id",
            "x-medley-client",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "forwarded",
            "x-real-ip",
            "x-original-url",
            "x-rewrite-url",
            "x-http-method-override",
        ]
    )
    value = draw.choice(
        [
            b"",
            b"0",
            b"-1",
            b"nan",
            b"1e-9",
            b"?1",
            b"true",
            b"../..",
            b"127.0.0.1",
            b"/v1/media/x",
            b"x" * 4000,
            odd_bytes(draw),
            b"\xff",
            b"\xed\xa0\x80",
        ]
    )
    return any_request(draw, *[spelt(draw, name).encode() + b": " + value] * draw.choice([1, 1, 2]))


@kind
def trace_headers(draw: random.Random) -> Made:
    value = draw.choice(
        [
            b"",
            b"\xff",
            b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
            b"ff-" + b"f" * 200,
            b"00-zz-zz-zz",
            b"a=b," * 2000,
            odd_bytes(draw),
            b"%ff",
        ]
    )
    name = draw.choice(["traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "uber-trace-id", "trace_parent"])
    return any_request(draw, spelt(draw, name).encode() + b": " + value)


@kind
def deadlines(draw: random.Random) -> Made:
    value = draw.choice(
        [
            "0.001",
            "1e-9",
            "0",
            "-1",
            "nan",
            "inf",
            "-inf",
            "1e400",
            "9" * 400,
            "",
            " ",
            "1,2",
            "0x1",
            "1_0",
            "٣".encode().decode("latin-1"),
            "\xff",
            "0.05",
            "1e-320",
            "5 s",
        ]
    )
    path = draw.choice([*PATHS, *PICTURE_PATHS])
    body = body_for(draw, path)
    if path == "/v1/chat/completions":
        body |= {"stream": draw.random() < 0.5, "max_tokens": 200}
    headers = [JSON, f"{spelt(draw, 'x-deadline')}: {value}"] * draw.choice([1, 1, 2])
    return posted(path, body, *headers)


@kind
def priorities(draw: random.Random) -> Made:
    value = draw.choice(
        [
            "u=7",
            "u=-1",
            "u=8",
            "u=",
            "u=99999999999999999999",
            "i",
            "u=1;x=" + "y" * 4000,
            "\xff",
            '"',
            "u=1, u=7",
            "=",
            "((((" * 500,
            "u=:" + "A" * 50 + ":",
            "u=0",
        ]
    )
    return any_request(draw, f"{draw.choice(['Priority', 'PRIORITY', 'Prefer'])}: {value}")


@kind
def other_headers(draw: random.Random) -> Made:
    name = draw.choice(
        [
            "Accept",
            "Accept-Encoding",
            "Accept-Charset",
            "Range",
            "If-None-Match",
            "If-Modified-Since",
            "Cookie",
            "Authorization",
            "Origin",
            "Referer",
            "User-Agent",
            "Content-Type",
            "TE",
            "Trailer",
            "Via",
            "Max-Forwards",
            "Proxy-Connection",
            "Keep-Alive",
            "Access-Control-Request-Method",
            "OpenAI-Organization",
            "X-Stainless-Retry-Count",
            "Date",
            "From",
            "Warning",
        ]
    )
    value = draw.choice(
        [
            b"",
            b"*",
            b"\xff" * 50,
            b"bytes=0-,-1," * 500,
            b"q=nan",
            b"x" * 8000,
            odd_bytes(draw, 50, 200),
            b"(" * 3000,
            b"a;" * 3000,
            b"application/json\tx",
            b'"' * 99,
            b"%s%n{0}${jndi:ldap://127.0.0.1/a}",
        ]
    )
    return any_request(draw, name.encode() + b": " + value)


@kind
def long_headers(draw: random.Random) -> Made:
    path = draw.choice(READ_PATHS)
    return draw.choice(
        [
            lambda: http_request(
                f"GET {path} HTTP/1.1",
                b"",
                "Authorization: Bearer " + "a" * draw.choice([14_000, 17_000, 40_000, 60_000]),
            ),
            lambda: Request(
                "",
                http_request(f"GET {path} HTTP/1.1", b"", "Cookie: " + "a" * draw.choice([70_000, MIB])),
                is_http=False,
            ),
            lambda: http_request(
                f"GET {path} HTTP/1.1", b"", *[f"X-{number}: y" for number in range(draw.choice([99, 150, 900]))]
            ),
            lambda: Request(
                "",
                http_request(
                    f"GET {path} HTTP/1.1", b"", *[f"X-{number}: y" for number in range(draw.choice([1100, 5000]))]
                ),
                is_http=False,
            ),
            lambda: http_request(f"GET {path}?{'a=b&' * draw.choice([3000, 8000])} HTTP/1.1"),
            lambda: Request("", http_request(f"GET /{'a' * draw.choice([66_000, MIB])} HTTP/1.1"), is_http=False),
            lambda: http_request(f"GET {path} HTTP/1.1", b"", "x" * 250 + ": y"),
            # HAProxy reads no name of a header that is longer than 255 bytes.
            lambda: Request("", http_request(f"GET {path} HTTP/1.1", b"", "x" * 20_000 + ": y"), is_http=False),
            lambda: http_request(f"POST {draw.choice(PATHS)} HTTP/1.1", b"{}", *[JSON] * draw.choice([2, 60])),
        ]
    )()


@kind
def wrong_hosts(draw: random.Random) -> Made:
    host = draw.choice(
        [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            " ",
            "\xff",
            "[::1",
            "[::ffff:1.2.3.4]",
            "127.0.0.1:99999999",
            "a@127.0.0.1",
            "localhost\tx",
            "127.0.0.1/x",
            "2130706433",
            "0x7f.1",
            "..",
            "localhost..",
            "x" * 5000,
            "127.0.0.1,evil.example",
            "%6c",
            "evil.example:8000",
        ]
    )
    path = draw.choice(PATHS)
    body = json.dumps(body_for(draw, path)).encode()
    valid = all(32 < ord(letter) < 127 for letter in host)
    return draw.choice(
        [
            lambda: Request(
                "", http_request(f"POST {path} HTTP/1.1", body, JSON, f"Host: {host}", host=None), is_http=valid
            ),
            lambda: Request(
                "", http_request(f"GET {draw.choice(READ_PATHS)} HTTP/1.1", b"", f"Host: {host}"), is_http=False
            ),
            lambda: Request("", http_request(f"POST http://evil.example{path} HTTP/1.1", body, JSON), is_http=False),
            lambda: Request("", http_request(f"GET {draw.choice(READ_PATHS)} HTTP/1.1", b"", host=None), is_http=False),
            lambda: http_request(
                f"GET {draw.choice(READ_PATHS)} HTTP/1.1", b"", f"X-Forwarded-Host: {word(draw)}.example"
            ),
        ]
    )()


@kind
def path_tricks(draw: random.Random) -> Made:
    good = draw.choice([*READ_PATHS, *PATHS])
    path = draw.choice(
        [
            "/..%2f..%2fetc/passwd",
            "//" + good[1:],
            good + "//",
            good + "/.",
            "/./" + good[1:],
            "/v1/../v1/models",
            "/%00",
            good + "%00",
            good + "%0d%0aX:%20y",
            "/v1/models/" + "%2e%2e%2f" * 20,
            "/v1/models/" + "a" * 3000,
            "/v1/models/%ff%fe",
            "/v1/models/%F0%9F%98%80",
            good + "?" + "%00=%ff&" * 100,
            good + "#x",
            "/-/healthz",
            "/-/routes",
            "/-/x",
            "/static/../..",
            "/v1/models/;x",
            good.upper(),
            "/v1/models/%",
            "/v1/models/%zz",
            "/\\..\\..",
            "/v1/models/@variant",
            f"/v1/models/{CHAT}@{'x' * 300}",
            good + "%20",
            "/%2e%2e",
            "*",
            "/v1/%6d%6f%64els",
            "/v1/models/{{7*7}}",
            "/v1/models/*",
            "/haproxy?stats",
            "/metrics",
        ]
    )
    method = draw.choice(["GET", "GET", "POST", "HEAD", "DELETE"])
    return http_request(f"{method} {path} HTTP/1.1", b"{}" if method == "POST" else b"", JSON)


@kind
def forged_media_links(draw: random.Random) -> Made:
    name = draw.choice(
        [
            encoded(draw.randbytes(18)).replace("/", "_").replace("+", "-") + ".png",
            "..%2f..%2fsecret",
            "x.png",
            "%00.png",
            ".",
            "a" * 500 + ".png",
            "x.svg",
            "%ff.png",
            "con.png/x",
            "~root",
        ]
    )
    expires = draw.choice(
        ["", "0", "9" * 400, "-1", "nan", "1e9", "%00", str(2_000_000_000), "٣".encode().decode("latin-1"), "inf"]
    )
    signature = draw.choice(["", "a" * 64, encoded(draw.randbytes(32)), "%ff%fe", "%F0%9F%98%80", "x" * 8000, "0" * 43])
    query = "&".join([f"expires={expires}", f"signature={signature}"] * draw.choice([1, 1, 3]))
    path = f"/v1/media/{name}?{query}"
    valid = path.isascii()
    return Request("", http_request(f"{draw.choice(['GET', 'HEAD', 'DELETE', 'PUT'])} {path} HTTP/1.1"), is_http=valid)


@kind
def methods(draw: random.Random) -> Made:
    method = draw.choice(
        [
            "HEAD",
            "OPTIONS",
            "TRACE",
            "PUT",
            "DELETE",
            "PATCH",
            "get",
            "BREW",
            "PROPFIND",
            "M" * 500,
            "GET" + chr(95),
            "LINK",
        ]
    )
    path = draw.choice([*READ_PATHS, *PATHS, *PICTURE_PATHS, "/nothing"])
    body = json.dumps(body_for(draw, path)).encode() if path.startswith(PATHS) and draw.random() < 0.3 else b""
    return http_request(f"{method} {path} HTTP/1.1", body, JSON, "Origin: http://evil.example", "Max-Forwards: 0")


# --- HTTP itself -----------------------------------------------------------------------------------------------------


@kind
def chunk_tricks(draw: random.Random) -> Made:
    body = json.dumps(embedding()).encode()
    size = b"%x" % len(body)
    end = b"0\r\n\r\n"
    raw = draw.choice(
        [
            size + b";" + b"x" * 20_000 + b"\r\n" + body + b"\r\n" + end,
            b"".join(b"1;a=b\r\n%c\r\n" % one for one in body) + end,
            b"0x" + size + b"\r\n" + body + b"\r\n" + end,
            b"-1\r\n" + body + b"\r\n" + end,
            b"ffffffffffffffff\r\n" + body,
            b"1" + b"0" * 400 + b"\r\n" + body,
            size + b"\n" + body + b"\n0\n\n",
            size + b" \r\n" + body + b"\r\n" + end,
            size + b"\r\n" + body + b"xx" + end,
            size + b"\r\n" + body + b"\r\n0\r\nX-Session-Id: \xff\r\nHost: evil.example\r\n\r\n",
            size + b"\r\n" + body + b"\r\n0\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
            size + b"\r\n" + body + b"\r\n" + end + b"GET /nothing HTTP/1.1\r\n\r\n",
            b"\r\n\r\n" + size,
            b"000000000000000000000" + size + b"\r\n" + body + b"\r\n" + end,
            b"z\r\n",
        ]
    )
    coding = draw.choice(
        [
            "chunked",
            "Chunked",
            "chunked, identity",
            "identity, chunked",
            " chunked",
            "xchunked",
            "chunked\t",
            "chunked, chunked",
        ]
    )
    version = draw.choice(["1.1", "1.1", "1.1", "1.0"])
    line = f"POST /v1/embeddings HTTP/{version}"
    return Request("", http_request(line, raw, JSON, f"Transfer-Encoding: {coding}"), is_http=False, seconds=25)


@kind
def smuggling(draw: random.Random) -> Made:
    """Two lengths in one request: who reads the other one takes the rest for a request of its own."""
    inner = http_request("GET /smuggled HTTP/1.1", b"", "X-Session-Id: \xff")
    body = draw.choice(
        [b"0\r\n\r\n" + inner, b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner), json.dumps(embedding()).encode() + inner]
    )
    lengths = draw.choice(
        [
            [f"Content-Length: {draw.choice([0, 4, 6, len(body)])}", "Transfer-Encoding: chunked"],
            ["Transfer-Encoding: chunked", "Transfer-Encoding: x"],
            ["Transfer_Encoding: chunked", f"Content-Length: {len(body)}"],
            ["Transfer-Encoding : chunked", f"Content-Length: {len(body)}"],
            ["X: y\r\n Transfer-Encoding: chunked", f"Content-Length: {len(body)}"],
            ["Transfer-Encoding:\x0bchunked", f"Content-Length: {len(body)}"],
            [f"Content-Length: {len(body)}", f"Content-Length: {draw.choice([0, 5])}"],
            [f"Content-Length: {len(body)}, {len(body)}"],
            [f"Content-Length: 00{len(body)}"],
            ["Content-Length: 0", f"Content_Length: {len(body)}"],
            ["Connection: keep-alive, Content-Length, X-Medley-Client", f"Content-Length: {len(body)}"],
            [f"X: y\nContent-Length: {len(body)}"],
            [f"X: y\rContent-Length: {len(body)}"],
            [
                "Upgrade: h2c",
                "HTTP2-Settings: AAMAAABkAAQAAP__",
                "Connection: Upgrade, HTTP2-Settings",
                f"Content-Length: {len(body)}",
            ],
        ]
    )
    line = draw.choice(
        ["POST /v1/embeddings HTTP/1.1", "GET /healthz HTTP/1.1", "HEAD /v1/models HTTP/1.1", "POST /healthz HTTP/1.1"]
    )
    return Request("", http_request(line, body, JSON, *lengths), is_http=False, seconds=25)


@kind
def not_http(draw: random.Random) -> Made:
    raw = draw.choice(
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(500),
            draw.randbytes(draw.choice([1, 100, 100_000])) + b"\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + draw.randbytes(50),
            b"EHLO evil.example\r\n\r\n",
            b"GET /healthz\r\n\r\n",
            b"GET /healthz HTTP/%b\r\nHost: 127.0.0.1\r\n\r\n"
            % draw.choice([b"0.9", b"2.0", b"3.7", b"1.", b"x", b"1.10"]),
            b"CONNECT 127.0.0.1:8265 HTTP/1.1\r\nHost: 127.0.0.1:8265\r\n\r\n",
            b"GET http://127.0.0.1:8265/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            b"\r\n" * 5000,
            b"\0" * 5000,
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\nGET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"\r\n\r\n\0\r\nQUIT\n" + b"\x21\x11\0\x0c" + draw.randbytes(12),
            b"GET /v1/models/\xc3\xa8 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            b"GET  /healthz  HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX\xff: y\r\nNo colon\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n: y\r\n\r\n",
        ]
    )
    return Request("", raw, is_http=False, seconds=20)


@kind
def websocket_junk(draw: random.Random) -> Made:
    path = draw.choice([*READ_PATHS, *PATHS, "/v1/realtime", "/nothing", "/"])
    key = draw.choice(["dGhlIHNhbXBsZSBub25jZQ==", "", "x", "\xff", "=" * 500])
    headers = [
        f"Upgrade: {draw.choice(['websocket', 'WebSocket', 'h2c', 'websocket, x', 'x' * 300])}",
        f"Connection: {draw.choice(['Upgrade', 'upgrade, keep-alive', 'close, Upgrade'])}",
        f"Sec-WebSocket-Version: {draw.choice(['13', '8', '-1', '', '13, 8'])}",
        f"Sec-WebSocket-Key: {key}",
        *draw.choice(
            [[], ["Sec-WebSocket-Extensions: permessage-deflate; " + "x; " * 500], ["Sec-WebSocket-Protocol: \xff"]]
        ),
    ]
    junk = draw.choice(
        [b"", b"\x88\x80" + draw.randbytes(4), b"\x81\xff" + b"\xff" * 8 + draw.randbytes(100), draw.randbytes(5000)]
    )
    return Request("", http_request(f"GET {path} HTTP/1.1", b"", *headers) + junk, is_http=False, seconds=15)


@kind
def pipelines(draw: random.Random) -> Made:
    """Many requests at once on one connection."""
    one = http_request(f"GET {draw.choice(READ_PATHS)} HTTP/1.1", b"", "Connection: keep-alive")
    other = http_request(
        "POST /v1/embeddings HTTP/1.1", json.dumps(embedding()).encode(), JSON, "Connection: keep-alive"
    )
    return Request("", (one + other) * draw.choice([5, 40]) + http_request("GET /healthz HTTP/1.1"), is_http=False)


# --- manners ---------------------------------------------------------------------------------------------------------


@kind
def slow_headers(draw: random.Random) -> Made:
    """Heads that never end, on fifty connections."""
    raw = any_request(draw, *[f"X-{number}: {word(draw)}" for number in range(50)])
    return Request("", raw, Manner.SLOW, is_http=False, seconds=draw.choice([15, 30]), connections=50)


@kind
def slow_bodies(draw: random.Random) -> Made:
    path = draw.choice([*PATHS, "/v1/images/edits"])
    raw = posted(path, b" " * 3000) if path != "/v1/images/edits" else sent_form(edit_form(draw, ('user"', b"a" * 900)))
    head = raw.index(b"\r\n\r\n") + 4
    if draw.random() < 0.5:
        return Request("", raw, Manner.SLOW, seconds=35, connections=10, at_once=head)
    return Request("", raw[: head + 50], seconds=35, connections=10)


@kind
def clients_that_do_not_read(draw: random.Random) -> Made:
    raw = draw.choice(
        [
            lambda: posted(
                "/v1/chat/completions",
                chat(draw, stream=True, max_tokens=1500, ignore_eos=True, logprobs=True, top_logprobs=20),
            ),
            lambda: posted("/v1/embeddings", embedding(["some words"] * 512)),
            lambda: posted("/v1/images/generations", picture(n=8, stream=True, partial_images=3)),
            lambda: http_request("GET /openapi.json HTTP/1.1", b"", "Connection: keep-alive") * 50,
        ]
    )()
    return Request("", raw, Manner.UNREAD, seconds=draw.choice([5, 20, 65]), connections=draw.choice([1, 4]))


@kind
def clients_that_leave(draw: random.Random) -> Made:
    """In the middle of their request, of the work, or of the answer."""
    raw = draw.choice(
        [
            lambda: posted("/v1/chat/completions", chat(draw, stream=True, max_tokens=1000, n=draw.choice([1, 8]))),
            lambda: posted("/v1/chat/completions", chat(draw, max_tokens=1000)),
            lambda: posted("/v1/embeddings", embedding(["word " * 200] * 256)),
            lambda: posted("/v1/images/generations", picture(n=8, quality="hd")),
            lambda: sent_form(edit_form(draw)),
            lambda: posted("/v1/embeddings", b"[" * (4 * MIB)),
        ]
    )()
    return Request(
        "", raw, draw.choice([Manner.LEAVES, Manner.HALF]), is_http=False, seconds=25, connections=draw.choice([1, 3])
    )


if __name__ == "__main__":  # python tests/adversary/hostile.py ADDRESS KIND SEED sends one request again
    import sys

    from sending import exchange

    again = made(sys.argv[2], int(sys.argv[3]))
    print(again, exchange(sys.argv[1], again), sep="\n")
