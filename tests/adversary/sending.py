"""Bytes to a server as they are, in the manner of many kinds of clients, and what came back."""

from __future__ import annotations

import contextlib
import http.client
import io
import random
import select
import socket
import struct
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from urllib.parse import urlsplit

# After the last byte of a whole answer, for more that should not come.
SILENCE_S = 0.3
READ = 1 << 16


class Manner(Enum):
    """How a client goes about one request."""

    WHOLE = auto()  # sends all, reads all
    SLOW = auto()  # sends a byte now and then; is cut off, or leaves at its time
    UNREAD = auto()  # sends all, reads nothing, leaves at its time
    LEAVES = auto()  # sends all, and leaves soon with a reset
    HALF = auto()  # sends a part, and ends its side


@dataclass(frozen=True)
class Request:
    """
    Attributes:
        raw: all bytes that the client would send.
        is_http: whether it is anything that a server of HTTP has to understand.
        client: the loopback address that it comes from.
        seconds: after which the client leaves.
        connections: that do the same at once.
        is_long: its answer may take longer than the client waits.
        at_once: bytes that a slow client sends before it becomes slow.
    """

    kind: str
    raw: bytes
    manner: Manner = Manner.WHOLE
    is_http: bool = True
    client: str = "127.0.0.66"
    seconds: float = 60.0
    connections: int = 1
    is_long: bool = False
    at_once: int = 1

    def __str__(self) -> str:
        shown = self.raw[:400].decode("latin-1").encode("unicode_escape").decode()
        return f"{self.kind} ({self.manner.name.lower()}, {len(self.raw)} bytes): {shown}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Exchange:
    """
    Attributes:
        whole: whether the last answer has come to its end.
        late: the client left before the server had done.
    """

    answers: list[Answer]
    whole: bool
    late: bool
    seconds: float


def http_request(line: str, body: bytes = b"", *headers: str | bytes, host: str | None = "127.0.0.1") -> bytes:
    """An HTTP request. Its length is added where there is a body and no header says how long it is."""
    lines = [line.encode("latin-1"), *([b"Host: " + host.encode("latin-1")] if host else [])]
    lines += [one.encode("latin-1") if isinstance(one, str) else one for one in headers]
    names = {one.partition(b":")[0].strip().lower() for one in lines}
    if b"connection" not in names:
        lines.append(b"Connection: close")
    if body and not names & {b"content-length", b"transfer-encoding"}:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def exchange(address: str, request: Request) -> Exchange:
    """Send a request in its manner, and read what comes back until the server closes, or has said all, or the client
    leaves."""
    url, began, received = urlsplit(address), time.monotonic(), bytearray()
    method = request.raw.split(b" ", 1)[0].decode("latin-1").upper()
    late = True
    with socket.create_connection((url.hostname or "", url.port or 80), 10, (request.client, 0)) as connection:
        connection.setblocking(False)
        pieces = Pieces(request)
        while (left := request.seconds - (time.monotonic() - began)) > 0:
            if pieces.over and request.manner is Manner.LEAVES:
                time.sleep(min(left, pieces.leaves_after))
                late = False
                break
            piece = pieces.next()
            readers = [] if request.manner is Manner.UNREAD else [connection]
            readable, writable, _ = select.select(readers, [connection] if piece else [], [], min(left, pieces.pause()))
            if writable:
                try:
                    pieces.sent(connection.send(piece))
                    if pieces.over and request.manner is Manner.HALF:
                        connection.shutdown(socket.SHUT_WR)
                except OSError:
                    pieces.drop()  # there may still be an answer
            if readable:
                try:
                    came = connection.recv(READ)
                except OSError:
                    came = b""
                received += came
                late = bool(came)
                if not came:
                    break
            elif not writable and pieces.over and answers_in(bytes(received), method)[1]:
                late = False
                break
        if request.manner in (Manner.LEAVES, Manner.UNREAD):
            with contextlib.suppress(OSError):  # a reset, not an end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    answers, whole = answers_in(bytes(received), method)
    return Exchange(answers, whole, late, time.monotonic() - began)


class Pieces:
    """What is to be sent, when."""

    def __init__(self, request: Request):
        self.left = memoryview(request.raw)
        self.manner = request.manner
        self.at = 0.0
        self.first = request.at_once
        chosen = random.Random(len(request.raw))  # the same for the same request
        self.leaves_after = chosen.choice([0.0, 0.01, 0.3, 2.0])
        if request.manner is Manner.HALF:
            self.left = self.left[: chosen.randrange(len(self.left))]

    @property
    def over(self) -> bool:
        return not self.left

    def next(self) -> memoryview:
        if self.manner is Manner.SLOW:
            return self.left[: self.first] if time.monotonic() >= self.at else self.left[:0]
        return self.left[: 1 << 18]

    def pause(self) -> float:
        """Seconds until there is something to look after, if nothing happens."""
        return max(0.01, self.at - time.monotonic()) if self.manner is Manner.SLOW and self.left else SILENCE_S

    def sent(self, count: int) -> None:
        self.left = self.left[count:]
        self.first = 1
        self.at = time.monotonic() + 0.7

    def drop(self) -> None:
        self.left = self.left[:0]


class Received(io.BytesIO):
    """Bytes that http.client takes for a socket; it may not close them."""

    def makefile(self, *_: Any) -> Received:
        return self

    def close(self) -> None:
        pass


def answers_in(data: bytes, method: str) -> tuple[list[Answer], bool]:
    """The answers in what a server sent, and whether the last is whole."""
    received, found = Received(data), []
    while received.tell() < len(data):
        answer = http.client.HTTPResponse(received, method=method)  # type: ignore[arg-type]
        try:
            answer.begin()
        except (http.client.HTTPException, ValueError):
            at = received.tell()
            if found and at >= len(data):
                return found, False
            # Not even a status line: kept as an answer of no status, for who judges.
            return [*found, Answer(0, {}, data[:200])] if b"\r\n\r\n" in data else found, False
        length = answer.headers.get("content-length")
        unframed = length is None and not answer.chunked and method != "HEAD" and answer.status not in (204, 304)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        try:
            body = answer.read()
        except (http.client.HTTPException, ValueError) as error:
            part = error.partial if isinstance(error, http.client.IncompleteRead) else b""
            return [*found, Answer(answer.status, headers, part)], False
        found.append(Answer(answer.status, headers, body))
        if unframed or answer.status == 101:
            return found, False  # its end is that of the connection
    return found, bool(found)
