"""Requests grown from the valid ones of each endpoint: bodies, forms and headers with mistakes of every kind."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from bodies import ENCODED, PIXEL
from endpoints import Endpoint, endpoints
from hypothesis import strategies as st
from sending import Request, http_request

# The models of the starter cluster, by task.
MODELS = {
    "chat": "smollm2-135m-instruct",
    "embeddings": "all-minilm-l6-v2",
    "images": "doodle",
    "upscaling": "realesr-animevideov3",
    "styles": "magenta-styles",
}
# Fields of the examples that these models do not take. They come back as mistakes.
NOT_HERE = ("loras", "scheduler", "controls")
READ_PATHS = (
    "/healthz",
    "/readyz",
    "/v1/models",
    f"/v1/models/{MODELS['chat']}",
    "/v1/media/a.png",
    "/openapi.json",
    "/docs",
)
# Seconds. Whatever is asked for is stopped then, and the answer is an honest 504.
DEADLINE_S = 15


@dataclass(frozen=True)
class Raw:
    """Text that stands in JSON as it is."""

    text: str


@dataclass
class Pairs:
    """An object whose keys may come twice."""

    pairs: list[list[Any]]


Tree = Any  # Pairs, lists, texts, numbers, Raw


def tree(value: Any) -> Tree:
    match value:
        case dict():
            return Pairs([[key, tree(one)] for key, one in value.items()])
        case list():
            return [tree(one) for one in value]
    return value


def written(node: Tree) -> str:
    match node:
        case Raw(text):
            return text
        case Pairs(pairs):
            return "{" + ",".join(f"{written(key)}:{written(value)}" for key, value in pairs) + "}"
        case list():
            return "[" + ",".join(map(written, node)) + "]"
    return json.dumps(node)


# --- values ----------------------------------------------------------------------------------------------------------

NUMBERS = [
    *(
        "0",
        "-0",
        "-0.0",
        "1",
        "-1",
        "0.5",
        "1.0",
        "1e0",
        "1E400",
        "-1e400",
        "1e-400",
        "5e-324",
        "1.7976931348623157e308",
    ),
    *(str((1 << bits) + more) for bits in (7, 8, 15, 16, 31, 32, 53, 63, 64, 128) for more in (-1, 0, 1)),
    *(str(-(1 << bits) - more) for bits in (31, 63) for more in (0, 1)),
    *(
        "9" * 400,
        "9" * 5000,
        "0." + "3" * 3000,
        "01",
        "+1",
        ".5",
        "1.",
        "0x10",
        "NaN",
        "Infinity",
        "-Infinity",
        "1_000",
        "\u0661",
    ),
]
TEXTS = [
    *(
        "",
        " ",
        "\x00",
        "\x7f",
        "\u2028",
        "\ufeff",
        "😀",
        "👩‍👩‍👧",
        "e\u0301" * 20,
        "\u202e",
        "ﷺ" * 50,
        "ß",
        "İ",
        "\ufffe",
        "\U0010ffff",
    ),
    *(
        "null",
        "true",
        "1",
        "[]",
        "{}",
        "NaN",
        "../../etc/passwd",
        "%00",
        "{{7*7}}",
        "${x}",
        "<|im_end|>",
        "[PAD]",
        "</s>",
    ),
    *(
        "auto",
        "none",
        "url",
        "b64_json",
        "json_schema",
        "user",
        "function",
        "64x64",
        "@",
        "a@b",
        "data:image/png;base64,",
        ENCODED,
    ),
    *("a" * 257, "a" * 100_000, "word " * 3000, "\n" * 9000, "=" * 1000),
]
texts = st.sampled_from(TEXTS) | st.text(max_size=12)
# Escapes that stand for no text, and bytes that are none, which `latin` writes as they are.
odd_texts = st.sampled_from(
    [
        r'"\ud800"',
        r'"\udc00\ud800"',
        r'"\x41"',
        r'"\u12"',
        '"\t"',
        '"\n"',
        "'a'",
        '"',
        '"\\"',
        '"\udcff"',
        '"\udcc0\udcaf"',
        '"\udced\udca0\udc80"',
    ]
).map(Raw)
scalars = st.sampled_from([*map(Raw, NUMBERS), None, True, False]) | texts | odd_texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(st.tuples(texts, inner).map(list), max_size=4).map(Pairs)
        | st.tuples(inner, st.sampled_from([2, 20, 101, 300])).map(lambda pair: [pair[0]] * pair[1])
    ),
    max_leaves=6,
)


def deep(levels: int, of: str) -> Raw:
    start, end = {"list": ("[", "]"), "object": ('{"a":', "}"), "schema": ('{"items":', "}"), "open": ("[", "")}[of]
    return Raw(start * levels + "1" + end * levels)


depths = st.builds(
    deep, st.sampled_from([5, 90, 101, 250, 5000]), st.sampled_from(["list", "object", "schema", "open"])
)

# --- mutations -------------------------------------------------------------------------------------------------------


def holders(node: Tree) -> list[tuple[list[Any], int]]:
    """Every place of a tree, as a list and an index into it."""
    found: list[tuple[list[Any], int]] = []
    match node:
        case Pairs(pairs):
            found += [(pair, 1) for pair in pairs]
            found += [place for _, value in pairs for place in holders(value)]
        case list():
            found += [(node, index) for index in range(len(node))]
            found += [place for value in node for place in holders(value)]
    return found


def other_type(value: Tree, which: int) -> Tree:
    """The same by another type."""
    forms = [[value], Pairs([["a", value]]), written(value), None, [[value]], Raw(written(value) + "0"), True]
    return forms[which % len(forms)]


def spelt(key: Any, which: int) -> Any:
    """A key that is nearly the one that is known."""
    if not isinstance(key, str):
        return key
    forms = [
        key.upper(),
        key + " ",
        key + "\x00",
        key.replace("e", "\u0435"),
        key[:-1],
        f"{key}[]",
        "__proto__",
        f"{key}.{key}",
        "",
    ]
    return forms[which % len(forms)]


@st.composite
def bodies(draw: st.DrawFn, document: dict[str, Any]) -> bytes:
    """JSON like a valid body, with up to three mistakes."""
    root: list[Any] = [tree(document)]
    for _ in range(draw(st.integers(0, 3))):
        places = [(root, 0), *holders(root[0])]
        holder, index = places[draw(st.integers(0, len(places) - 1))]
        value, rule = holder[index], draw(st.integers(0, 9))
        if rule <= 2:
            holder[index] = draw(values)
        elif rule == 3:
            holder[index] = other_type(value, draw(st.integers(0, 6)))
        elif rule == 4:
            holder[index] = draw(depths)
        elif rule == 5 and isinstance(value, str):
            holder[index] = value * draw(st.sampled_from([0, 2, 100, 20_000]))
        elif rule == 5 and isinstance(value, list):
            holder[index] = value * draw(st.sampled_from([0, 2, 17, 65, 300]))
        elif isinstance(value, Pairs) and rule == 6:
            value.pairs.append([draw(texts), draw(values)])
        elif isinstance(value, Pairs) and value.pairs and rule == 7:
            value.pairs.pop(draw(st.integers(0, len(value.pairs) - 1)))
        elif isinstance(value, Pairs) and value.pairs and rule == 8:
            value.pairs.append([draw(st.sampled_from(value.pairs))[0], draw(values)])
        elif isinstance(value, Pairs) and value.pairs:
            chosen = draw(st.sampled_from(value.pairs))
            chosen[0] = spelt(chosen[0], draw(st.integers(0, 8)))
        else:
            holder[index] = draw(scalars)
    text = written(root[0]).encode("utf-8", "surrogateescape")
    return draw(
        st.sampled_from([text] * 12 + [b"\xef\xbb\xbf" + text, b" \n" + text + b"\t", text + b",", text[:-1], text * 2])
    )


TOKEN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"
HEADERS = [
    *(
        "X-Request-Id",
        "X-Session-Id",
        "X-Request-Timeout-Seconds",
        "X-Request-Disconnect-Disabled",
        "Serve-Multiplexed-Model-Id",
    ),
    *(
        "X-Serve-Router-A",
        "X-HAProxy-A",
        "X-Medley-Client",
        "X-Deadline",
        "Prefer",
        "Priority",
        "traceparent",
        "tracestate",
    ),
    *(
        "Authorization",
        "OpenAI-Beta",
        "OpenAI-Project",
        "Idempotency-Key",
        "Accept",
        "Accept-Encoding",
        "Accept-Language",
        "Cookie",
    ),
    *(
        "Content-Encoding",
        "Content-Language",
        "Content-MD5",
        "Content-Range",
        "Range",
        "If-Match",
        "If-None-Match",
        "Origin",
    ),
    *(
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "Forwarded",
        "Via",
        "Referer",
        "User-Agent",
        "X-HTTP-Method-Override",
    ),
]
HEADER_VALUES = [
    *(
        b"",
        b"0",
        b"1",
        b"-1",
        b"5",
        b"0.001",
        b"1e9",
        b"nan",
        b"inf",
        b"1e400",
        b"9" * 400,
        b"?1",
        b"true",
        b"*",
        b"gzip",
        b"identity",
    ),
    *(
        b"wait=0",
        b"wait=-1",
        b"wait=nan",
        b"wait=1e99",
        b"u=7",
        b"u=9",
        b"u=1, u=7",
        b"u",
        b"close",
        b"http://evil.example",
        b"127.0.0.1",
    ),
    *(
        b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
        b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
        b"a=b," * 100,
        b"bytes=0-1",
    ),
    *(
        b"\xff",
        b"\xc3\xa9",
        b"\x80\x81",
        b"\xed\xa0\x80",
        b"a\tb",
        b'"',
        b"'",
        b"%00",
        b"\\",
        b"(" * 300,
        b";" * 300,
        b"a" * 7000,
        b"=?utf-8?q?a?=",
    ),
]


@st.composite
def headers(draw: st.DrawFn) -> list[bytes]:
    """Header lines that HTTP allows, those that steer among them, in many spellings."""
    found = []
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(HEADERS) | st.text(TOKEN, min_size=1, max_size=20).map(lambda text: "X-" + text))
        name = draw(st.sampled_from([str, str.lower, str.upper, lambda text: text.replace("-", "_")]))(name)
        printable = st.binary(max_size=30).map(lambda data: bytes(byte for byte in data if byte >= 32 and byte != 127))
        value = draw(st.sampled_from(HEADER_VALUES) | printable)
        found += [name.encode() + b": " + value.strip()] * draw(st.sampled_from([1, 1, 1, 2]))
    return found


CONTENT_TYPES = [
    *["application/json"] * 60,
    *(
        "application/json; charset=utf-8",
        "application/json; charset=punycode",
        "application/vnd.api+json",
        "text/plain",
        "",
        "json",
        "*/*",
    ),
    *(
        "application/json;" * 50,
        'application/json; charset="',
        "multipart/form-data",
        "APPLICATION/JSON",
        "application/json, text/html",
        "\xff/\xff",
    ),
]

# --- forms -----------------------------------------------------------------------------------------------------------

NAMES = [
    "image",
    "image[]",
    "mask",
    "style_image",
    "prompt",
    "model",
    "n",
    "seed",
    "size",
    "loras",
    "loras[][name]",
    "controls[0][image]",
    "stream",
    "user",
    "_charset_",
    "",
    "x[[",
    "a" * 300,
]
CONTENTS = [
    *(
        b"",
        b"1",
        b"true",
        b"[]",
        b"64x64",
        b"\xff",
        b"\x00",
        b"9" * 1000,
        PIXEL,
        PIXEL[:40],
        PIXEL + b"x",
        b"GIF89a",
        b"[" * 9000,
    ),
    PIXEL.replace(struct.pack(">II", 1, 1), struct.pack(">II", 1 << 30, 1 << 30)),
]
PARTS = [
    "",
    "\r\nContent-Type: image/png",
    "\r\nContent-Type: text/plain; charset=idna",
    "\r\nContent-Transfer-Encoding: base64",
    "\r\nX: " + "y" * 5000,
    "\r\n\xff: 1",
]


@st.composite
def form_bodies(draw: st.DrawFn, fields: dict[str, Any]) -> bytes:
    """A form like a valid one, with other parts and another end."""
    parts: list[tuple[str, bytes, str, str]] = []
    for name, value in fields.items():
        if draw(st.integers(0, 9)):
            text = value if isinstance(value, str) else json.dumps(value)
            file = name in ("image", "mask", "style_image")
            parts.append((name, PIXEL if file else text.encode(), '; filename="a.png"' if file else "", ""))
    for _ in range(draw(st.integers(0, 3))):
        content = draw(st.sampled_from(CONTENTS) | st.binary(max_size=40))
        file = draw(st.sampled_from(["", '; filename="a"', "; filename*=utf-8''%ff", '; filename="\xff"']))
        name = draw(st.sampled_from(NAMES) | st.text(st.characters(max_codepoint=255), max_size=6))
        parts.insert(draw(st.integers(0, len(parts))), (name, content, file, draw(st.sampled_from(PARTS))))
    raw = b""
    for name, content, file, more in parts:
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"{file}{more}\r\n\r\n'
        raw += head.encode("latin-1", "replace") + content + b"\r\n"
    return raw + draw(
        st.sampled_from([b"--b--\r\n"] * 8 + [b"--b--", b"--b", b"", b"--b\r\n", b"--b--\r\nmore", b"\r\n"])
    )


# --- requests --------------------------------------------------------------------------------------------------------


def model_of(endpoint: Endpoint) -> str:
    return MODELS[endpoint.task.name]


def examples(endpoint: Endpoint) -> list[dict[str, Any]]:
    """Valid bodies: the example, and one in which much is asked for."""
    much = {key: value for key, value in endpoint.body.items() if key not in NOT_HERE}
    named = {"model": model_of(endpoint)}
    return [endpoint.example | named, much | named]


@st.composite
def requests(draw: st.DrawFn, endpoint: Endpoint) -> Request:
    """A request to an endpoint, or to one beside it."""
    document = draw(st.sampled_from(examples(endpoint)))
    lines = [f"X-Deadline: {DEADLINE_S}".encode(), *draw(headers())]
    if endpoint.forms and draw(st.booleans()):
        body = draw(form_bodies(document))
        lines.append(b"Content-Type: multipart/form-data; boundary=b")
    else:
        body = draw(bodies(document))
        lines.append(b"Content-Type: " + draw(st.sampled_from(CONTENT_TYPES)).encode("latin-1"))
    method = draw(st.sampled_from(["POST"] * 60 + ["PUT", "DELETE", "OPTIONS", "PATCH", "BREW"]))
    tail = draw(st.sampled_from([""] * 40 + ["/", "?", "?a=%ff&a=%00", "//", "/x"]))
    return Request(endpoint.path, http_request(f"{method} {endpoint.path}{tail} HTTP/1.1", body, *lines))


@st.composite
def reads(draw: st.DrawFn) -> Request:
    """A request for a page."""
    path = draw(st.sampled_from(READ_PATHS))
    more = draw(
        st.text(TOKEN.replace("#", "") + "/:@?=;,", max_size=12)
        | st.binary(max_size=6).map(lambda data: "".join(f"%{byte:02x}" for byte in data))
    )
    method = draw(st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "DELETE"]))
    target = path + draw(st.sampled_from(["", "", "/", "?", "/../"])) + more
    return Request("pages", http_request(f"{method} {target} HTTP/1.1", b"", *draw(headers())))


def sources() -> dict[str, st.SearchStrategy[Request]]:
    """What requests are drawn from, by the name of the endpoint."""
    return {endpoint.path: requests(endpoint) for endpoint in endpoints()} | {"pages": reads()}
