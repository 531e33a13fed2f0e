"""Sends a request and times what comes back, to a fraction of a millisecond.

Not with Locust's own clients: their `iter_lines` waits until 1,024 bytes are there, which adds hundreds of milliseconds
to the time of a first token. Here, lines of a stream and pieces of a file are read as they come and stamped at once.
What they say is looked at when the answer is complete.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import gevent
from geventhttpclient import HTTPClient
from urllib3.filepost import encode_multipart_formdata

from loadtest import clock
from loadtest.kind import Answer, Kind, Request
from loadtest.records import Record
from loadtest.sound import wav_sound

# More than an open loop ever has under way: a pool that ends would close the loop.
CONNECTIONS = 4096
TIMING = re.compile(r"(queue|engine);dur=([\d.]+)")
END = b"[DONE]"
PIECE_BYTES = 64 * 1024
# What an answer in sound says of its length, if it says it: it has no other place for its usage than a header.
AUDIO_SECONDS = "x-audio-seconds"


# The library's own limits never strike before the client's patience ends: whatever is late then is given up.
LIBRARY_WAITS_S = 60.0


class GaveUp(Exception):
    """No complete answer within the time that a client waits."""


class Client:
    """
    Args:
        address: of the server. patience_s: how long it waits for the whole answer to a request.
        headers: with each request, such as a key.
    """

    def __init__(self, address: str, patience_s: float, headers: dict[str, str] | None = None):
        self.patience_s = patience_s
        self.headers = {"Accept-Encoding": "identity", **(headers or {})}
        self.base = urlsplit(address).path.rstrip("/")
        library_s = patience_s + LIBRARY_WAITS_S
        self.http = HTTPClient.from_url(
            address, concurrency=CONNECTIONS, network_timeout=library_s, connection_timeout=library_s
        )

    def send(self, kind: Kind, request: Request, record: Record, start: float) -> None:
        """Send it and fill the record. Whatever happens ends up there: nothing is raised.

        Args:
            start: when the schedule began, of clock.now.
        """
        record.id = record.id or f"load-{secrets.token_hex(8)}"
        try:
            with gevent.Timeout(self.patience_s, GaveUp):
                answer = self._exchange(request, record, start)
            if record.complete and record.status == 200:
                record.amount = kind.amount(answer)
                record.why = kind.check(request, answer)
        except GaveUp:
            record.why = f"no complete answer within {self.patience_s:g} s"
            record.given_up = record.status in (0, 200)  # any other status had said all before
        except Exception as error:  # any failure of a request is a result
            record.why = f"{type(error).__name__}: {error}"[:300]

    def get(self, path: str) -> dict[str, Any]:
        """A document of the server.

        Raises:
            OSError, GaveUp: it does not answer, or not in time.
            ValueError: the document is not JSON, or the status is not 200.
        """
        with gevent.Timeout(self.patience_s, GaveUp(f"no answer within {self.patience_s:g} s")):
            response = self.http.get(self.base + path, headers=self.headers)
            text = response.read()
        if response.status_code != 200:
            raise ValueError(f"GET {path} gave {response.status_code}: {text[:200].decode(errors='replace')}")
        return json.loads(text)

    def close(self) -> None:
        self.http.close()

    def _exchange(self, request: Request, record: Record, start: float) -> Answer:
        body, kind = encoded(request)
        headers = {**self.headers, "Content-Type": kind, "X-Request-Id": record.id}
        record.tried = clock.now() - start
        record.sent = record.tried if record.sent is None else record.sent
        with self.http.post(self.base + request.path, body=body, headers=headers) as response:
            record.status = response.status_code
            note_headers(response, record)
            if record.status != 200:
                return read_error(response, record, start)
            content_type = str(response.get("content-type") or "application/json").partition(";")[0].strip().lower()
            if content_type == "text/event-stream":
                return read_stream(response, request, record, start)
            if content_type.endswith("json"):
                return read_document(response, record, start)
            return read_bytes(response, content_type, record, start)


def encoded(request: Request) -> tuple[bytes, str]:
    """A body, and what it is."""
    if not request.files:
        return json.dumps(request.body).encode(), "application/json"
    fields: list[Any] = [(name, str(value)) for name, value in request.body.items()]
    fields += [(name, (file, data, kind)) for name, (file, kind, data) in request.files.items()]
    return encode_multipart_formdata(fields)


def note_headers(response: Any, record: Record) -> None:
    for name, value in TIMING.findall(response.get("server-timing", "") or ""):
        setattr(record, f"{name}_s", float(value) / 1000)
    again = response.get("retry-after")
    record.retry_after = float(again) if again and re.fullmatch(r"\d+(\.\d+)?", again) else None


def read_error(response: Any, record: Record, start: float) -> Answer:
    text = response.read()
    note_whole(record, start)
    try:
        document = json.loads(text)
    except ValueError:  # of a proxy, which knows nothing of the API
        document = None
    record.why, record.code = message_of(document, record.status), code_of(document)
    return Answer([])


def read_document(response: Any, record: Record, start: float) -> Answer:
    text = response.read()
    note_whole(record, start)
    document = json.loads(text)
    note_sound_of_usage([document], record)
    return Answer([document])


def note_whole(record: Record, start: float) -> None:
    """An answer that says nothing until all of it is there."""
    record.first = record.last = clock.now() - start
    record.complete = True


def read_stream(response: Any, request: Request, record: Record, start: float) -> Answer:
    """Stamp each line when it is there; parse when all are."""
    lines: list[tuple[float, bytes]] = []
    spoken = 0
    while line := response.readline(b"\n"):
        if not line.startswith(b"data:"):
            continue
        lines.append((clock.now() - start, line[5:].strip()))
        spoken += b'"content":"' in line or b'"content": "' in line
        if request.leave_after and spoken > request.leave_after:
            response.release()  # closes the connection: the answer is not complete
            record.left = True
            break
    record.last = lines[-1][0] if lines else clock.now() - start
    documents, stamps = [], []
    for stamp, data in lines:
        if data == END:
            record.complete = True
            continue
        document = json.loads(data)
        documents.append(document)
        if document.get("error"):
            record.why, record.code = message_of(document, record.status), code_of(document)
        if has_text(document):
            stamps.append(stamp)
    note_stamps(record, stamps)
    for document in documents:
        if usage := document.get("usage"):
            record.tokens, record.prompt_tokens = usage.get("completion_tokens", 0), usage.get("prompt_tokens", 0)
    note_sound_of_usage(documents, record)
    if not record.complete and not record.left:
        record.why = record.why or "the stream ended without its end mark"
    return Answer(documents, content_type="text/event-stream")


def note_stamps(record: Record, stamps: list[float]) -> None:
    record.chunks = len(stamps)
    record.first = stamps[0] if stamps else None
    record.max_gap = max((after - before for before, after in pairwise(stamps)), default=0.0)


def read_bytes(response: Any, content_type: str, record: Record, start: float) -> Answer:
    """Stamp each piece when it is there; measure the sound when all are."""
    data = bytearray()
    stamps: list[tuple[float, int]] = []  # a moment, and how many bytes were there
    for piece in pieces(response):
        data += piece
        stamps.append((clock.now() - start, len(data)))
    record.complete = True
    record.last = stamps[-1][0] if stamps else clock.now() - start
    record.first = stamps[0][0] if stamps else None
    if content_type.startswith("audio/"):
        note_sound(bytes(data), stamps, response.get(AUDIO_SECONDS), record)
    return Answer([], bytes(data), content_type)


def pieces(response: Any) -> Iterator[bytes]:
    """A body as it comes. The library's own `read(n)` waits until there are n bytes, and its iterator for 4 KB."""
    while True:
        if piece := response.read(len(response._body_buffer)):
            yield piece
        if response.message_complete:
            return
        response.feed(response._sock.recv(PIECE_BYTES))


def note_sound(data: bytes, stamps: list[tuple[float, int]], said: str | None, record: Record) -> None:
    """
    Args:
        stamps: moments, and how many bytes of `data` were there.
        said: the seconds of it, as the server says them; else they are those of the file, if it is WAV.
    """
    begins, seconds = wav_sound(data)
    record.first_audio = next((at for at, size in stamps if size > begins), None)  # a header is not sound yet
    record.audio_s = float(said) if said else seconds


def note_sound_of_usage(documents: list[Any], record: Record) -> None:
    """Seconds of sound that were made, or, of a transcription, heard."""
    for document in documents:
        if isinstance(document, dict) and (usage := document.get("usage")):
            record.audio_s = usage.get("audio_seconds") or usage.get("seconds") or record.audio_s


def has_text(document: dict[str, Any]) -> bool:
    """A piece that says something: the first one of a stream often only says who speaks."""
    for choice in document.get("choices", ()):
        delta = choice.get("delta") or {}
        if delta.get("content") or delta.get("tool_calls") or delta.get("reasoning_content") or choice.get("text"):
            return True
    return False


def message_of(document: Any, status: int) -> str:
    return f"{status}: {error_in(document).get('message', 'no message')}"[:300]


def code_of(document: Any) -> str:
    return str(error_in(document).get("code") or "")


def error_in(document: Any) -> dict[str, Any]:
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}
