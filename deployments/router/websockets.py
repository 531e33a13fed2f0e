"""The middleware around every WebSocket: its id, record and limits, and errors as close frames with a reason.

Ray Serve reads messages ahead and keeps them until the application asks for them. So the limit on all bytes of a
WebSocket also limits how much router memory one connection can fill.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from deployments.metering import Meter
from deployments.router.edge import note_close, request_id_of, with_headers
from deployments.router.errors import error_response, unexpected
from deployments.router.record import CLIENT_LEFT, RequestRecord
from models.errors import InvalidRequest, PayloadTooLarge, ServingError

# https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1 and IANA's registry of close codes.
NORMAL, ABNORMAL = 1000, 1006
POLICY, TOO_BIG, SERVER_ERROR, TRY_LATER = 1008, 1009, 1011, 1013
# The most bytes that fit into a close frame.
LONGEST_REASON = 123
SWITCHED, DENIED = 101, 403


class WebSockets:
    """Gives a WebSocket its id, limits and record, which is written once, at the end.

    Before a WebSocket is accepted, an error is a usual HTTP answer. Afterwards it is a close frame: its code says what
    the client can do, and its reason begins with the error's code. The record's status is 101 if either side closed an
    accepted WebSocket, 499 if the client vanished, and the answer's status if it was not accepted.

    Args:
        message_limit: bytes of one message. limit: bytes of all messages that a client sends.
        idle_s: seconds without a message in either direction after which it is closed. A client that does not read for
            so long is cut off.
    """

    def __init__(self, app: ASGIApp, *, meter: Meter, message_limit: int, limit: int, idle_s: float):
        self.app = app
        self.meter = meter
        self.message_limit = message_limit
        self.limit = limit
        self.idle_s = idle_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        record = RequestRecord(request_id.decode(), scope["path"][:200], verb="GET")
        scope["request_id"], scope["record"] = record.request_id, record
        record.begin({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
        status = seen = 0
        active = time.monotonic()

        async def receive_within_limits() -> Message:
            nonlocal seen, active
            message = await self._next(receive, lambda: active)
            active = time.monotonic()
            note_close(scope, message)  # again, because the app may run without Edge
            size = size_of(message)
            seen += size
            if size > self.message_limit:
                raise PayloadTooLarge(f"A message is over {mib(self.message_limit)} MiB. Send smaller ones.")
            if seen > self.limit:
                raise PayloadTooLarge(f"The messages are over {mib(self.limit)} MiB in all. Open another WebSocket.")
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status, active
            match message["type"]:
                case "websocket.accept":
                    status = SWITCHED
                    message = with_headers(message, (b"x-request-id", request_id))
                case "websocket.http.response.start":
                    status = message["status"]
                    message = with_headers(message, (b"x-request-id", request_id))
                case "websocket.close":
                    status = status or DENIED
                    scope["close_code"] = message.get("code", NORMAL)
            await self._send(message, scope, send)
            active = time.monotonic()

        try:
            await self.app(scope, receive_within_limits, send_with_id)
            if status == SWITCHED and "close_code" not in scope:
                await send_with_id({"type": "websocket.close", "code": NORMAL})
        except WebSocketDisconnect:
            pass  # the client disconnected while the handler waited for a message
        except Exception as error:
            failure = error if isinstance(error, ServingError) else unexpected(error, record.request_id)
            record.failed(failure)
            if "close_code" not in scope:
                await refuse(failure, status == SWITCHED, scope, receive, send_with_id)
        finally:
            record.close_code = scope.get("close_code")
            vanished = record.close_code is None or record.close_code == ABNORMAL
            record.close(CLIENT_LEFT if vanished and status in (0, SWITCHED) else status, self.meter)

    async def _next(self, receive: Receive, active: Callable[[], float]) -> Message:
        """The client's next message. Raises Idle if nothing was sent for too long since `active`."""
        arriving = asyncio.ensure_future(receive())
        try:
            while not arriving.done():
                if (left := active() + self.idle_s - time.monotonic()) <= 0:
                    raise Idle(f"Nothing was sent for {self.idle_s:g} s. Open another WebSocket when you need one.")
                await asyncio.wait([arriving], timeout=left)
        finally:
            arriving.cancel()
        return arriving.result()

    async def _send(self, message: Message, scope: Scope, send: Send) -> None:
        """Raises Idle if the client reads nothing for too long."""
        try:
            async with asyncio.timeout(self.idle_s):
                await send(message)
        except TimeoutError:
            scope["close_code"] = ABNORMAL  # a close frame would not be read either
            raise Idle(f"Nothing was read for {self.idle_s:g} s.") from None


async def refuse(error: ServingError, accepted: bool, scope: Scope, receive: Receive, send: Send) -> None:
    """An error as the client gets it."""
    if not accepted and "websocket.http.response" in (scope.get("extensions") or {}):
        await error_response(error)(scope, receive, send)
        return
    reason = f"{error.code}: {error.message}".encode()[:LONGEST_REASON].decode(errors="ignore")
    await send({"type": "websocket.close", "code": close_code_of(error), "reason": reason})


def close_code_of(error: ServingError) -> int:
    """The close code that fits best: try again later, send less, or do not send this again."""
    if error.status in (429, 503):
        return TRY_LATER
    if error.status == 413:
        return TOO_BIG
    return POLICY if error.status < 500 else SERVER_ERROR


class Idle(InvalidRequest):
    code = "idle"


def size_of(message: Message) -> int:
    """The size of a message in bytes; text counts as UTF-8."""
    text = message.get("text") or ""
    return len(message.get("bytes") or b"") + (len(text) if text.isascii() else len(text.encode()))


def mib(size: int) -> str:
    return f"{size / (1 << 20):g}"
