"""What happens around every handler. Plain ASGI: no task and no copy of the body per layer."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.router.edge import request_id_of
from deployments.router.errors import error_response, unexpected
from models.errors import PayloadTooLarge

# Below Serve's own logger, so that lines land in the replica's log; switched on by the router's `access_log` argument.
access_log = logging.getLogger("ray.serve.access")
access_log.setLevel(logging.WARNING)


class RequestContext:
    """Gives the request its id, writes one line of access log, and turns a bug into a clean 500."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        scope["request_id"] = request_id.decode()
        status = 0
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            failure = unexpected(error, scope["request_id"])
            if status:  # too late for a status: let the server cut the connection
                raise
            await error_response(failure)(scope, receive, send_with_id)
        finally:
            if access_log.isEnabledFor(logging.INFO):
                milliseconds = (time.perf_counter() - started) * 1000
                access_log.info("%s %s %s %.1fms", scope["request_id"], scope["path"], status or "closed", milliseconds)


class BodyLimit:
    """Refuses bodies over a limit, by the header before anything is read, else while reading."""

    def __init__(self, app: ASGIApp, limit: int):
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            # Python refuses to read a number of thousands of digits.
            if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > self.limit):
                await error_response(self._too_large())(scope, receive, send)
                return
        seen = 0

        async def receive_within_limit() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise self._too_large()
            return message

        await self.app(scope, receive_within_limit, send)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The request body is over {self.limit / (1 << 20):g} MiB. Send less at a time.")
