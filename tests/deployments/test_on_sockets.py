"""The router behind Serve's own layers and uvicorn, on real sockets: where bytes matter."""

import asyncio
import contextlib
import json
import logging
import random
import socket

import pytest
import uvicorn
from fastapi import Request
from patience import patience, until
from ray.serve._private import http_util
from ray.serve._private.constants import SERVE_MULTIPLEXED_MODEL_ID

from deployments.router.application import create_application
from deployments.router.edge import Edge, middlewares
from deployments.router.services import Services
from deployments.router.streaming import open_byte_stream
from models.catalog import load_catalog


@contextlib.asynccontextmanager
async def serving(app):
    """A server of an ASGI application on a free port, as Serve starts it. Gives the port."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", access_log=False, log_config=None))
    server.install_signal_handlers = lambda: None
    with socket.create_server(("127.0.0.1", 0)) as listening:
        task = asyncio.create_task(server._serve(sockets=[listening]))
        await until(lambda: server.started, "the server listens", every=0.001)
        yield listening.getsockname()[1]
        server.should_exit = server.force_exit = True
        await task


async def answer_to(port: int, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what a server answers to bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        async with asyncio.timeout(patience()):
            answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *headers = head.decode("latin-1").split("\r\n")
    return int(line.split()[1]), dict(header.lower().split(": ", 1) for header in headers), body


def request(line: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    lines = [line, "Host: a", "Connection: close", *headers]
    lines += [f"Content-Length: {len(body) if length is None else length}"] if body else []
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


JSON = "Content-Type: application/json"


@pytest.fixture
def application_with(services):
    return lambda **limits: Edge(create_application(Services(load_catalog(), services.dispatcher, **limits)))


def chat(model: str, words: str, **more) -> bytes:
    return json.dumps(
        {"model": model, "messages": [{"role": "user", "content": words}], "stream": True, **more}
    ).encode()


async def test_a_client_of_http_1_0_gets_no_chunks(application_with, chat_model):
    body = chat(chat_model, "one two")
    async with serving(application_with()) as port:
        _, old, whole = await answer_to(port, request("POST /v1/chat/completions HTTP/1.0", body, JSON))
        _, new, _ = await answer_to(port, request("POST /v1/chat/completions HTTP/1.1", body, JSON))
    assert "transfer-encoding" not in old
    assert int(old["content-length"]) == len(whole)
    assert whole.endswith(b"data: [DONE]\n\n")
    assert new["transfer-encoding"] == "chunked"


async def test_what_is_cut_off_or_slow_is_an_error_in_openais_form(application_with):
    form = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n--b--'
    of_form = "Content-Type: multipart/form-data; boundary=b"
    async with serving(application_with(body_s=0.1)) as port:
        for raw, status in [
            (request("POST /v1/images/edits HTTP/1.1", form, of_form, length=len(form) - 2), 400),
            (request("POST /v1/images/edits HTTP/1.1", form, of_form, length=len(form) + 2), 408),
            (request("POST /v1/embeddings HTTP/1.1", b"{", JSON, length=1000), 408),
            (request("POST /v1/embeddings/ HTTP/1.1", b"", JSON, "Transfer-Encoding: chunked") + b"2\r\n{}\r\n", 408),
            (request("GET /v1/models HTTP/1.1", b"", "X-Deadline: \xff"), 400),
            (request("GET /v1/nothing HTTP/1.1", b"", "X-Session-Id: \xff"), 404),
        ]:
            found, _, body = await answer_to(port, raw)
            assert found == status, body
            assert set(json.loads(body)) == {"error"}


async def test_head_has_the_headers_of_get_and_no_body(application_with):
    async with serving(application_with()) as port:
        for path in ("/v1/models", "/healthz/", "/nothing", "/v1/embeddings"):
            status, headers, body = await answer_to(port, request(f"HEAD {path} HTTP/1.1"))
            got, expected, content = await answer_to(port, request(f"GET {path} HTTP/1.1"))
            assert (status, body) == (got, b"")
            assert headers["content-length"] == expected["content-length"] == str(len(content))


async def test_a_client_that_stops_reading_stops_its_stream(services):
    app = create_application(Services(load_catalog(), services.dispatcher, read_s=0.2))
    closed = asyncio.Event()

    async def sound():
        try:
            while True:
                yield b"\0" * 65536
        finally:
            closed.set()

    async def endless(request: Request):
        return await open_byte_stream(request, sound(), "audio/mpeg")

    app.add_api_route("/endless", endless, methods=["POST"], response_model=None)
    async with serving(Edge(app)) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(request("POST /endless HTTP/1.1"))
        async with asyncio.timeout(patience()):
            await closed.wait()
        writer.transport.abort()


SERVES = [
    b"x-session-id",
    b"serve_multiplexed_model_id",
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    b"x-request-id",
    b"traceparent",
    b"tracestate",
]


@pytest.mark.parametrize("value", [b"\xff", b"?1", b"-1", b"nan"])
async def test_serve_reads_nothing_of_a_clients_whatever_the_spelling(value):
    """Serve's own reading of headers, behind its own layers in its own order."""
    read = []

    async def direct_ingress(scope, receive, send):
        headers = dict(scope["headers"])
        session = http_util.parse_session_id_header(headers)
        timeout = http_util.parse_request_timeout_header(headers, 900)
        disabled = http_util.parse_disconnect_disabled_header(headers)
        model = [v.decode() for k, v in headers.items() if k.decode().replace("-", "_") == SERVE_MULTIPLEXED_MODEL_ID]
        for key, sent in scope["headers"]:
            if key.decode() in ("traceparent", "tracestate", "x-request-id"):
                sent.decode()
        read.append((session, timeout, disabled, model))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = http_util._apply_middlewares(direct_ingress, middlewares())
    assert isinstance(app, Edge)
    async with serving(app) as port:
        for name in SERVES:
            spelling = random.choice([name, name.replace(b"-", b"_"), name.replace(b"_", b"-"), name.upper()])
            raw = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + spelling + b": " + value + b"\r\n\r\n"
            status, _, body = await answer_to(port, raw)
            assert status == 200, body
    assert set(map(str, read)) == {str(("", 900, False, []))}
