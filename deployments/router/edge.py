"""The outermost layer of the HTTP path, outside Ray Serve.

Serve obeys control headers that a client could send, to switch off its timeout, to continue after a disconnect or to
pick a replica. This layer removes them. What Serve itself answers, such as a failure of its own, becomes an error in
OpenAI's form. It is loaded through RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from uuid import uuid4

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.router.errors import error_response, unexpected
from models.errors import DeadlineExceeded, InvalidRequest, RateLimited, ServingError, Unavailable


def normalised(name: bytes) -> bytes:
    """A header's name without the differences that Serve and proxies overlook."""
    return name.lower().replace(b"_", b"-")


# Serve compares some of these exactly and some as `normalised`. Here all are compared so.
CONTROL_HEADERS = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve-multiplexed-model-id",
        b"x-session-id",
        normalised(os.environ.get("RAY_SERVE_SESSION_ID_HEADER_KEY", "x-session-id").encode()),
        b"x-request-id",  # replaced by one that is valid
    }
)
# Headers that HAProxy sets for Serve.
CONTROL_PREFIXES = (b"x-serve-router-", b"x-haproxy-")
# Serve decodes these as UTF-8, and fails on what is not. By https://www.w3.org/TR/trace-context/ they are ASCII.
TRACE_HEADERS = frozenset({b"traceparent", b"tracestate"})
# HAProxy 2.8 reports a client that disconnects while it waits for an answer in six of seven cases on a new connection
# to here, but hardly ever on a reused one, which is Serve's setting. So this connection is closed after each request;
# the client's own stays open.
CLOSE = (b"connection", b"close")
# The code of a WebSocket that was closed without one: https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
NO_CODE = 1005
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


def middlewares() -> list[Middleware]:
    """The middleware, for Serve's import path."""
    return [Middleware(Edge)]


class Edge:
    """Removes Serve's control headers, gives each request one valid id, and each failure OpenAI's form."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        inner = {**scope, "headers": [*harmless(scope["headers"]), (b"x-request-id", request_id)]}
        begun = False

        async def receive_noting_the_close() -> Message:
            message = await receive()
            note_close(inner, message)
            return message

        async def send_with_one_id(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                message = with_headers(message, (b"x-request-id", request_id), CLOSE)
            elif message["type"] in ("websocket.accept", "websocket.http.response.start"):
                # No CLOSE: "Connection: Upgrade" is what makes the connection a WebSocket.
                message = with_headers(message, (b"x-request-id", request_id))
            await send(message)

        if scope["type"] == "websocket":
            await self.app(inner, receive_noting_the_close, send_with_one_id)
            return
        answer = Answer(inner, Whole(send_with_one_id) if scope.get("http_version") == "1.0" else send_with_one_id)
        try:
            await self.app(inner, receive, answer)
        except Exception as error:
            if begun:
                raise  # too late for a status: let the server cut the connection
            await answer.send_error(unexpected(error, request_id.decode()))


# Serve's own, for load balancers.
PAGES_OF_SERVE = "/-/"


class Answer:
    """Sends an answer. An error of Serve's own, which is plain text, gets OpenAI's form, as the router's have."""

    def __init__(self, scope: Scope, send: Send):
        self.scope = scope
        self.send = send
        self.untouched = scope.get("path", "").startswith(PAGES_OF_SERVE)
        self.replaced = False

    async def __call__(self, message: Message) -> None:
        if self.replaced:
            return  # the rest of the plain text
        if not self.untouched and message["type"] == "http.response.start" and is_plain_error(message):
            self.replaced = True
            await self.send_error(error_of(message["status"]), message["status"])
        else:
            await self.send(message)

    async def send_error(self, error: ServingError, status: int | None = None) -> None:
        response = error_response(error)
        response.status_code = status or error.status
        await response(self.scope, nothing_more, self.send)


async def nothing_more() -> Message:
    return {"type": "http.disconnect"}


def is_plain_error(message: Message) -> bool:
    """An answer that begins is an error in plain text."""
    kind = next((value for name, value in message.get("headers", ()) if name.lower() == b"content-type"), b"")
    return message["status"] >= 400 and kind.startswith(b"text/plain")


def error_of(status: int) -> ServingError:
    """An error of Serve's as one of ours."""
    match status:
        case 408 | 504:
            return DeadlineExceeded("The request took too long and was stopped. Ask for less, or try later.")
        case 429:
            return RateLimited("Too many requests at once. Try again in a moment.", None, 1.0)
        case 503:
            return Unavailable("No router takes requests just now. Try again in a moment.", None, 1.0)
        case _ if status < 500:
            return InvalidRequest("The request cannot be served. GET /docs lists what there is.")
        case _:
            return ServingError("Something went wrong in the server. Tell its operator.")


class Whole:
    """Sends an answer in one piece, with its length: HTTP/1.0 knows no chunks
    (https://www.rfc-editor.org/rfc/rfc9112#section-6.1)."""

    def __init__(self, send: Send):
        self.send = send
        self.start: Message = {}
        self.body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start, self.body = message, bytearray()
            return
        self.body += message.get("body", b"")
        if message.get("more_body", False):
            return
        start = self.start
        if b"content-length" not in {name.lower() for name, _ in start.get("headers", ())}:
            start = with_headers(start, (b"content-length", str(len(self.body)).encode()))
        await self.send(start)
        await self.send({"type": "http.response.body", "body": bytes(self.body)})


def harmless(headers: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """The headers that may reach Serve."""
    for name, value in headers:
        plain = normalised(name)
        if plain in CONTROL_HEADERS or plain.startswith(CONTROL_PREFIXES) or not name.isascii():
            continue
        if plain in TRACE_HEADERS and not value.isascii():
            continue
        yield name, value


def request_id_of(scope: Scope) -> bytes:
    """The client's request id if it is valid, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return uuid4().hex.encode()


def with_headers(message: Message, *added: tuple[bytes, bytes]) -> Message:
    """The message with these headers, which replace others of the same names."""
    names = {name for name, _ in added}
    kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
    return {**message, "headers": [*kept, *added]}


def note_close(scope: Scope, message: Message) -> None:
    """Keep the code with which a client closed its WebSocket in the scope. Serve reads it and then cancels the
    application, which may never see it."""
    if message["type"] == "websocket.disconnect":
        scope.setdefault("close_code", message.get("code") or NO_CODE)
