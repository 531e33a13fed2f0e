"""Hostile headers, hosts, paths and links."""

from __future__ import annotations

import json
import random
import re

from kinds import (
    CHAT,
    JSON,
    MIB,
    PATHS,
    PICTURE_PATHS,
    READ_PATHS,
    Made,
    any_request,
    body_for,
    encoded,
    kind,
    odd_bytes,
    posted,
    spelt,
    word,
)
from sending import Request, http_request


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


# What HAProxy takes for a host, whoever's it is. It calls the rest no HTTP.
HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")


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
    valid = HOST.fullmatch(host) is not None
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
