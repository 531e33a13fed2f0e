"""A server with known delays, which notes the moment of each write: the truth that the harness is held against.

`python fake_server.py PORT LOG [JSON]` serves in a process of its own, in real time; in virtual time, `Server` is given
connections and a clock. The settings are those of SETTINGS.
"""

import base64
import hashlib
import heapq
import io
import json
import sys
import time
import wave

import gevent
from gevent.server import StreamServer
from PIL import Image

from benchmarks.vectors import vector_of

SETTINGS = {
    "first_s": 0.12,  # until the first token
    "token_s": 0.02,  # between two tokens
    "work_s": 0.01,  # for an answer that is no stream
    "sound_s": 2.0,  # seconds of sound in an answer that is sound
    "said_s": "",  # how many seconds of sound a header says; "" leaves it out
    "pieces": 0,  # that it comes in, as a stream of bytes; 0: it is whole
    "slots": 0,  # answers at once, others wait in turn; 0: no limit
    # Every n-th request:
    "errors": 0,  # has a 500
    "refuse": 0,  # is refused
    "beyond": 0,  # is refused because it is too large for any promise
    "cut": 0,  # gets half of a stream
    "lose": 0,  # gets no answer, only a closed connection
    "hang": 0,  # gets no answer and an open connection
    "stall": 0,  # gets half of a stream and an open connection
    "half": 0,  # gets half of a document that says an error, and an open connection
    "wrong": 0,  # gets an answer that is none
    "retry_after": "1",  # of refusals; "" leaves it out
    "cards": None,  # models, if not all of CARDS
}
CARDS = [
    {"id": "fake-chat", "object": "model", "task": "chat", "state": "ready"},
    {"id": "fake-embeddings", "object": "model", "task": "embeddings", "state": "ready"},
    {"id": "fake-images", "object": "model", "task": "images", "state": "ready", "size": "64x64"},
    {"id": "fake-upscaling", "object": "model", "task": "upscaling", "state": "scaled_to_zero", "scale": 2},
    {"id": "fake-styles", "object": "model", "task": "styles", "state": "ready", "styles": ["pop", "ink"]},
]
# Tasks that load tests know only by the example that the card gives.
SPEECH = {
    "id": "fake-speech", "object": "model", "task": "speech", "state": "ready",
    "example": {"path": "/v1/audio/speech", "body": {"input": "Hello."}},
}  # fmt: skip
RERANKING = {
    "id": "fake-reranking", "object": "model", "task": "reranking", "state": "ready",
    "example": {"path": "/v1/rerank", "body": {"query": "fish", "documents": ["a cod", "a cup"]}},
}  # fmt: skip
RATE = 8000  # samples a second, of a byte each
PNG = b"\x89PNG\r\n\x1a\n"


class Server:
    """
    Attributes:
        entries: of each request: `id`, `at` (when it had arrived), `path`, `key` (Authorization), `body` (its digest),
            `writes` (of tokens), and, where it was so, `wrong` or `left` (the client went away).
    """

    def __init__(self, settings, now=time.monotonic, log=None):
        assert set(settings) <= set(SETTINGS), settings
        self.settings = SETTINGS | settings
        self.now = now
        self.log = log
        self.entries = []
        self.free = [0.0] * self.settings["slots"]

    def connected(self, connection, _address=None):
        lines = connection.makefile("rb")
        try:
            while self.one(connection, lines):
                pass
        except OSError:
            pass
        finally:
            lines.close()
            connection.close()

    def one(self, connection, lines):
        """One request. False ends the connection."""
        words = lines.readline().split()
        if not words:
            return False
        headers = dict(iter(lambda: header_of(lines.readline()), None))
        at, path = self.now(), words[1].decode()
        body = lines.read(int(headers.get("content-length", 0)))
        if path == "/v1/models":
            answer(connection, {"object": "list", "data": self.settings["cards"] or CARDS})
            return True
        entry = {
            "number": len(self.entries) + 1,
            "id": headers.get("x-request-id"),
            "at": at,
            "path": path,
            "writes": [],
        }
        entry |= {"key": headers.get("authorization"), "body": hashlib.sha256(body).hexdigest()}
        self.entries.append(entry)
        try:
            return self.answered(connection, entry, body)
        except OSError:
            entry["left"] = True
            raise
        finally:
            if self.log:
                self.log.write(json.dumps(entry) + "\n")
                self.log.flush()

    def answered(self, connection, entry, body):
        path = entry["path"]
        if self.hits("lose", entry):
            return False
        if self.hits("hang", entry):
            gevent.sleep(3600)
        if self.hits("errors", entry):
            stalls = {"Content-Length": "1000"} if self.hits("half", entry) else {}
            answer(connection, {"error": {"message": "broken on purpose"}}, 500, stalls)
        elif self.hits("refuse", entry):
            again = self.settings["retry_after"]
            answer(connection, {"error": {"message": "no room"}}, 429, {"Retry-After": again} if again else {})
        elif self.hits("beyond", entry):
            answer(connection, {"error": {"message": "ask for less", "code": "beyond_promise"}}, 422)
        elif path == "/v1/chat/completions":
            self.stream(connection, json.loads(body), entry)
        elif path == "/v1/audio/speech":
            self.speak(connection, entry)
        elif path == "/v1/rerank":
            self.work(self.settings["work_s"])
            entry["asked"], entry["wrong"] = json.loads(body), self.hits("wrong", entry)
            right = {"results": [{"index": 0, "relevance_score": 0.9}], "usage": {"total_tokens": 7}}
            answer(connection, {"error": {"message": "broken on purpose"}} if entry["wrong"] else right)
        else:
            self.work(self.settings["work_s"])
            data = self.vectors(json.loads(body), entry) if path == "/v1/embeddings" else self.pictures(body, entry)
            timing = f"queue;dur=2.5, engine;dur={self.settings['work_s'] * 1000:g}"
            answer(connection, {"object": "list", "data": data}, headers={"Server-Timing": timing})
        return not self.hits("cut", entry)

    def work(self, seconds):
        if not self.free:
            gevent.sleep(seconds)
            return
        end = max(self.now(), heapq.heappop(self.free)) + seconds
        heapq.heappush(self.free, end)
        gevent.sleep(end - self.now())

    def hits(self, what, entry):
        return bool(self.settings[what]) and entry["number"] % self.settings[what] == 0

    def vectors(self, request, entry):
        texts = request["input"]
        if self.hits("wrong", entry) and len(texts) >= 3:  # of fewer it cannot be told
            entry["wrong"] = True
            return [{"index": place, "embedding": [1.0, 0.5]} for place in range(len(texts))]
        return [{"index": place, "embedding": vector_of(text)} for place, text in enumerate(texts)]

    def pictures(self, body, entry):
        if entry["path"] == "/v1/images/generations":
            width, height = map(int, json.loads(body)["size"].split("x"))
        else:
            sizes = body.index(PNG) + 16
            width, height = (int.from_bytes(body[place : place + 4], "big") for place in (sizes, sizes + 4))
            larger = 2 if entry["path"] == "/v1/images/upscales" else 1
            width, height = width * larger, height * larger
        entry["wrong"] = self.hits("wrong", entry)
        return [picture(width, height, plain=entry["wrong"])]

    def speak(self, connection, entry):
        """A WAV file: whole, or its header at once and its sound piece by piece."""
        entry["wrong"] = self.hits("wrong", entry)
        file = wav(self.settings["sound_s"]) if not entry["wrong"] else b"broken on purpose"
        count = self.settings["pieces"]
        if not count:
            self.work(self.settings["work_s"])
            said = f"X-Audio-Seconds: {self.settings['said_s']}\r\n" if self.settings["said_s"] else ""
            head = f"Content-Type: audio/wav\r\nContent-Length: {len(file)}\r\n{said}\r\n"
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + head.encode())
            connection.sendall(file[: len(file) // 2] if self.hits("cut", entry) else file)
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nTransfer-Encoding: chunked\r\n\r\n")
        send_chunk(connection, file[:HEADER])
        size = (len(file) - HEADER) // count
        due = self.now() + self.settings["first_s"]
        for number in range(count):
            gevent.sleep(max(0, due - self.now()))
            entry["writes"].append(self.now())
            send_chunk(connection, file[HEADER + number * size :][:size])
            due += self.settings["token_s"]
            if self.hits("cut", entry) and number == count // 2:
                return
        connection.sendall(b"0\r\n\r\n")

    def stream(self, connection, request, entry):
        tokens = request["max_tokens"]
        if self.hits("wrong", entry):
            entry["wrong"] = True
            tokens -= 1
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk(connection, {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        due = self.now() + self.settings["first_s"]
        for number in range(tokens):
            gevent.sleep(max(0, due - self.now()))
            entry["writes"].append(self.now())
            reason = "length" if number == tokens - 1 else None
            chunk(connection, {"choices": [{"delta": {"content": "word "}, "finish_reason": reason}]})
            due += self.settings["token_s"]
            if self.hits("cut", entry) and number == tokens // 2:
                return
            if self.hits("stall", entry) and number == tokens // 2:
                gevent.sleep(3600)
        usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": tokens + 7}
        chunk(connection, {"choices": [], "usage": usage})
        send_chunk(connection, b"data: [DONE]\n\n")
        connection.sendall(b"0\r\n\r\n")


def header_of(line):
    name, _, value = line.decode().partition(":")
    return (name.lower(), value.strip()) if value else None


def answer(connection, document, status=200, headers=()):
    text = json.dumps(document).encode()
    headers = {"Content-Type": "application/json", "Content-Length": len(text), **dict(headers)}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection.sendall(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + text)


def chunk(connection, document):
    send_chunk(connection, f"data: {json.dumps(document)}\n\n".encode())


def send_chunk(connection, data):
    connection.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def wav(seconds):
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(RATE)
        sound.writeframes(bytes(128 + number % 50 for number in range(int(seconds * RATE))))
    return file.getvalue()


HEADER = len(wav(0))


def picture(width, height, plain=False):
    """As the API gives them: of one colour, or nearly."""
    image = Image.new("RGB", (width, height), "red")
    if not plain:
        image.putpixel((1, 1), (0, 0, 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"b64_json": base64.b64encode(file.getvalue()).decode()}


def main(port, log, settings):
    with open(log, "a") as file:
        StreamServer(("127.0.0.1", port), Server(settings, log=file).connected).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
