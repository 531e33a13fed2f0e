"""The middleware around every handler. Plain ASGI: no task and no copy of the body per layer."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import time
from collections.abc import Iterator, Sequence

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.metering import Meter
from deployments.router.calling import wanted_deadline
from deployments.router.dispatch import Deadline
from deployments.router.edge import request_id_of
from deployments.router.errors import error_response, unexpected
from deployments.router.record import CLIENT_LEFT, RequestRecord, record_of
from deployments.router.streaming import CutOff
from models.errors import ClientTooSlow, PayloadTooLarge, ServingError, UnsupportedMediaType, WrongHost

# Bytes per second. A body gets one more second for each so many of its bytes that have come.
SLOWEST_BODY = 16 << 10
# Bytes. Larger pieces of an answer are sent in slices: a server waits for its client between two sends, but takes what
# it is given in one, however large that is.
LARGEST_SEND = 64 << 10
# Who is answered before the whole body has come may still be sending, and would lose the answer if the connection
# were closed at once: what comes is thrown away for so many seconds, up to so many bytes.
LINGERS_S, LINGERS = 3.0, 64 << 20
# What is left to say after the deadline, such as that it has passed, gets so many seconds.
LAST_WORDS_S = 1.0


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


class Equivalents:
    """HEAD is GET without a body, wherever there is GET. A slash at the end of a path changes nothing: a redirect would
    go to the wrong place behind a proxy that adds a prefix."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope["path"] = scope["path"][:-1]
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, send_without_body)


class Hosts:
    """Refuses requests for a host that is not ours. Otherwise a page in somebody's browser could call a server on their
    machine, under a name of its own that leads to 127.0.0.1 (DNS rebinding). An address in numbers is always ours.

    Args:
        allowed: names; `*.example.com` stands for all below example.com. None allows every name.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str] | None):
        self.app = app
        self.allowed = None if allowed is None else [name.lower() for name in allowed]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.allowed is None or scope["type"] == "lifespan" or all(map(self._is_ours, hosts_of(scope))):
            await self.app(scope, receive, send)
            return
        wrong = WrongHost(
            "This server has no such name. Its operator can add it to allowed_hosts in the router's args."
        )
        if scope["type"] == "websocket":
            raise wrong  # see WebSockets
        await refuse(wrong, scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        name = host_name(host)
        if name is None:
            return False
        if is_address(name):
            return True
        return any(name == one or (one.startswith("*.") and name.endswith(one[1:])) for one in self.allowed or ())


_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{0,5})?")


def hosts_of(scope: Scope) -> Iterator[str]:
    """Each Host header. A client of HTTP/1.0 may send none; a browser always does."""
    return (value.decode("latin-1") for name, value in scope["headers"] if name == b"host")


def host_name(host: str) -> str | None:
    """A Host header without its port; None if it is none."""
    found = _HOST.fullmatch(host.strip().lower())
    return found[1].strip("[]").rstrip(".") if found else None


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class TimeLimits:
    """The request's deadline, which also holds while its client sends or reads, and limits for a client that is slow.

    Args:
        deadline_s: for the whole request; the client's X-Deadline may be sooner.
        body_s: for the body, and one more second for each SLOWEST_BODY bytes that have come.
        read_s: for the client to read a piece of the answer.
    """

    def __init__(self, app: ASGIApp, deadline_s: float, body_s: float, read_s: float):
        self.app = app
        self.deadline_s = deadline_s
        self.body_s = body_s
        self.read_s = read_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            deadline = Deadline.within(self.deadline_s, wanted_deadline(HTTPConnection(scope)))
        except ServingError as error:
            await refuse(error, scope, receive, send)
            return
        scope["deadline"] = deadline
        started, came, whole = time.monotonic(), 0, False

        async def receive_in_time() -> Message:
            nonlocal came, whole
            if whole:
                return await receive()  # what comes is that the client has left
            end = started + self.body_s + came / SLOWEST_BODY
            try:
                async with asyncio.timeout(min(end, deadline.end) - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise deadline.exceeded() if deadline.end <= end else self._too_slow() from None
            came += len(message.get("body", b""))
            whole = not message.get("more_body", False)  # or the client has left
            return message

        async def send_in_time(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if last and not whole and has_body(scope):
                await send_pieces({**message, "more_body": True})
                with contextlib.suppress(ServingError, TimeoutError):
                    async with asyncio.timeout(LINGERS_S):
                        while not whole and came < LINGERS:
                            await receive_in_time()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send_pieces(message)

        async def send_pieces(message: Message) -> None:
            for piece in slices(message):
                try:
                    async with asyncio.timeout(min(self.read_s, max(deadline.left(), LAST_WORDS_S))):
                        await send(piece)
                except TimeoutError:
                    error = deadline.exceeded() if deadline.left() <= 0 else ClientTooSlow("The answer was not read.")
                    record_of(scope).failed(error)
                    raise CutOff(error.code) from None

        await self.app(scope, receive_in_time, send_in_time)

    def _too_slow(self) -> ClientTooSlow:
        return ClientTooSlow(
            f"The body did not come in time: {self.body_s:g} s, and one more for each {SLOWEST_BODY >> 10} KiB."
        )


def has_body(scope: Scope) -> bool:
    """Whether the headers promise a body."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def slices(message: Message) -> Iterator[Message]:
    """A large piece of an answer as several."""
    body = message.get("body", b"")
    if len(body) <= LARGEST_SEND:
        yield message
        return
    for start in range(0, len(body), LARGEST_SEND):
        last = start + LARGEST_SEND >= len(body)
        more = message.get("more_body", False) or not last
        yield {**message, "body": body[start : start + LARGEST_SEND], "more_body": more}


async def refuse(error: ServingError, scope: Scope, receive: Receive, send: Send, **headers: str) -> None:
    """Answer with an error, before anything was answered."""
    record_of(scope).failed(error)
    response = error_response(error)
    response.headers.update(headers)
    await response(scope, receive, send)


class Bodies:
    """Refuses bodies over a limit: by the header before anything is read, or else while reading. Refuses those that are
    compressed: a few bytes of them could be gigabytes."""

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
                await refuse(self._too_large(), scope, receive, send)
                return
            if name in CODINGS and value.strip().lower() not in CODINGS[name]:
                compressed = UnsupportedMediaType("Send the body uncompressed, without a Content-Encoding.")
                await refuse(compressed, scope, receive, send, **{"accept-encoding": "identity"})
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


# What the headers may say of a body that is not compressed.
CODINGS = {
    b"content-encoding": (b"", b"identity"),
    b"transfer-encoding": (b"chunked", b"identity"),
}
