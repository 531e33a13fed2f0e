"""How kinds of hostile requests are written down, and the parts that they are made of."""

from __future__ import annotations

import base64
import io
import json
import random
import string
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sending import Request, http_request

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
