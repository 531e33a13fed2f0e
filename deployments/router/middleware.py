"""The middleware around every handler. Plain ASGI: no task and no copy of the body per layer."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.metering import Meter
from deployments.router.edge import request_id_of
from deployments.router.errors import error_response, unexpected
from deployments.router.record import CLIENT_LEFT, RequestRecord, record_of
from deployments.router.streaming import CutOff
from models.errors import PayloadTooLarge


class RequestContext:
    """Gives each request its id and record, and turns a bug into a clean 500."""

    def __init__(self, app: ASGIApp, meter: Meter):
        self.app = app
        self.meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        record = RequestRecord(request_id.decode(), scope["path"][:200])
        scope["request_id"], scope["record"] = record.request_id, record
        # Pages and probes are not requests to a model.
        counted = scope["method"] == "POST"
        if counted:
            record.begin({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
        status, complete = 0, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
                if counted:
                    message["headers"].append((b"server-timing", record.server_timing()))
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except CutOff:
            raise  # the record has its error
        except Exception as error:
            failure = unexpected(error, record.request_id)
            record.failed(failure)
            if status:  # too late for a status: let the server cut the connection
                raise
            await error_response(failure)(scope, receive, send_with_id)
        finally:
            if counted:
                record.close(status if complete or record.code else CLIENT_LEFT, self.meter)


class BodyLimit:
    """Refuses bodies over a limit: by the header before anything is read, or else while reading."""

    def __init__(self, app: ASGIApp, limit: int):
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            # Python raises ValueError for a number with thousands of digits.
            if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > self.limit):
                too_large = self._too_large()
                record_of(scope).failed(too_large)
                await error_response(too_large)(scope, receive, send)
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
