"""The outermost layer of the HTTP path, outside Ray Serve.

Serve obeys control headers that a client could send, to switch off its timeout, to continue after a disconnect or to
pick a replica. This layer removes them. It is loaded through RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH.
"""

from __future__ import annotations

import re
from uuid import uuid4

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTROL_HEADERS = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
        b"x-session-id",
    }
)
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
    """Removes Serve's control headers and gives each request one valid id."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        kept = [
            (name, value) for name, value in scope["headers"] if name not in CONTROL_HEADERS and name != b"x-request-id"
        ]
        kept.append((b"x-request-id", request_id))

        inner = {**scope, "headers": kept}

        async def receive_noting_the_close() -> Message:
            message = await receive()
            note_close(inner, message)
            return message

        async def send_with_one_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = with_headers(message, (b"x-request-id", request_id), CLOSE)
            elif message["type"] in ("websocket.accept", "websocket.http.response.start"):
                # No CLOSE: "Connection: Upgrade" is what makes the connection a WebSocket.
                message = with_headers(message, (b"x-request-id", request_id))
            await send(message)

        await self.app(inner, receive_noting_the_close if scope["type"] == "websocket" else receive, send_with_one_id)


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
