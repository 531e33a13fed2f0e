"""Requests that break HTTP itself, and clients that are slow, deaf or gone."""

from __future__ import annotations

import json
import random

from kinds import (
    JSON,
    MIB,
    PATHS,
    READ_PATHS,
    Made,
    any_request,
    chat,
    edit_form,
    embedding,
    kind,
    picture,
    posted,
    sent_form,
    word,
)
from sending import Manner, Request, http_request


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
