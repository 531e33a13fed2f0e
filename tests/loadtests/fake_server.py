"""A server with known delays, which logs the moment of each write: the truth that the harness is held against.

`python fake_server.py PORT LOG [JSON]`: the JSON may set `first_s`, `token_s`, `tokens`, `work_s`, `errors`
and `refuse` (every n-th), `cut` (every n-th stream ends early), `slots` (requests at once, others wait).
"""

import asyncio
import json
import sys
import time

from benchmarks.vectors import vector_of

SETTINGS = {
    "first_s": 0.12,
    "token_s": 0.02,
    "tokens": 16,
    "work_s": 0.01,
    "errors": 0,
    "refuse": 0,
    "cut": 0,
    "slots": 0,
}
CARDS = [
    {"id": "fake-chat", "object": "model", "task": "chat", "state": "ready"},
    {"id": "fake-embeddings", "object": "model", "task": "embeddings", "state": "ready"},
]


class Server:
    def __init__(self, settings, log):
        self.settings = SETTINGS | settings
        self.log = log
        self.count = 0
        self.slots = asyncio.Semaphore(self.settings["slots"]) if self.settings["slots"] else None

    async def connected(self, reader, writer):
        try:
            while await self.one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def one(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        arrived = time.monotonic()
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = lines[0].split(" ")[1]
        if path == "/v1/models":
            self.answer(writer, {"object": "list", "data": CARDS})
            return True
        self.count += 1
        number, request = self.count, json.loads(body)
        entry = {"id": headers.get("x-request-id"), "arrived": arrived, "writes": []}
        if self.hits("errors", number):
            self.answer(writer, {"error": {"message": "broken on purpose"}}, 500)
        elif self.hits("refuse", number):
            self.answer(writer, {"error": {"message": "no room"}}, 429, {"Retry-After": "1"})
        elif path == "/v1/embeddings":
            await self.work(self.settings["work_s"])
            data = [{"index": place, "embedding": vector_of(text)} for place, text in enumerate(request["input"])]
            self.answer(writer, {"object": "list", "data": data})
        else:
            await self.stream(writer, request, entry, self.hits("cut", number))
        await writer.drain()
        self.log.write(json.dumps(entry) + "\n")
        self.log.flush()
        return not self.hits("cut", number)

    async def work(self, seconds):
        if self.slots is None:
            await asyncio.sleep(seconds)
            return
        async with self.slots:
            await asyncio.sleep(seconds)

    def hits(self, what, number):
        return bool(self.settings[what]) and number % self.settings[what] == 0

    def answer(self, writer, document, status=200, headers=()):
        text = json.dumps(document).encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in dict(headers).items())
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n".encode()
            + f"Content-Length: {len(text)}\r\n{extra}\r\n".encode()
            + text
        )

    async def stream(self, writer, request, entry, cut):
        tokens = request.get("max_tokens", self.settings["tokens"])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.chunk(writer, {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        due = time.monotonic() + self.settings["first_s"]
        for number in range(tokens):
            await asyncio.sleep(max(0, due - time.monotonic()))
            entry["writes"].append(time.monotonic())
            reason = "length" if number == tokens - 1 else None
            self.chunk(writer, {"choices": [{"delta": {"content": "word "}, "finish_reason": reason}]})
            due += self.settings["token_s"]
            if cut and number == tokens // 2:
                return
        usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": tokens + 7}
        self.chunk(writer, {"choices": [], "usage": usage})
        text = b"data: [DONE]\n\n"
        writer.write(f"{len(text):x}\r\n".encode() + text + b"\r\n0\r\n\r\n")

    def chunk(self, writer, document):
        text = f"data: {json.dumps(document)}\n\n".encode()
        writer.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")


async def main(port, log, settings):
    with open(log, "a") as file:  # noqa: ASYNC230  a test's own log
        server = await asyncio.start_server(Server(settings, file).connected, "127.0.0.1", port)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}))
