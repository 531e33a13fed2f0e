"""A well-behaved client, a process of its own: `python polite.py ADDRESS FILE` asks until its input is closed.

It embeds a text every half second, streams a short chat every two, and asks for a small picture every five, whether or
not the ones before are answered. It never tries again. A line of JSON for each request goes into FILE."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

CHAT, EMBEDDINGS, IMAGES = "smollm2-135m-instruct", "all-minilm-l6-v2", "doodle"
READY = "readyz"
# Seconds between two requests of a kind. Primes, nearly: they do not always come together.
EVERY_S = {"embeddings": 0.5, "chat": 2.03, "images": 5.07, READY: 1.01}
CLIENT_S = 150.0
TEXT = "The train leaves at noon from platform number"


@dataclass
class Asked:
    """One request and what came of it.

    Attributes:
        behind_s: how much later it was sent than it should: the client, or the whole machine, stood still.
        wrong: what is wrong with the answer; nothing if it is right.
    """

    task: str
    at: float
    status: int = 0
    wrong: str = ""
    duration_s: float = 0.0
    time_to_first_token_s: float | None = None
    time_per_output_token_s: float | None = None
    retry_after: str | None = None
    behind_s: float = 0.0


class Client:
    def __init__(self, http: httpx.AsyncClient):
        self.http = http
        self.number = 0
        self.embedded: list[float] | None = None
        self.asks: dict[str, Callable[[Asked], Awaitable[None]]] = {
            "embeddings": self.embed,
            "chat": self.chat,
            "images": self.draw,
            READY: self.ready,
        }

    async def ask(self, task: str) -> Asked:
        asked, began = Asked(task, time.time()), time.perf_counter()
        self.number += 1
        try:
            await self.asks[task](asked)
        except Exception as error:
            asked.wrong = f"{type(error).__name__}: {str(error)[:200]}"
        asked.duration_s = time.perf_counter() - began
        return asked

    def answered(self, asked: Asked, answer: httpx.Response) -> bool:
        asked.status, asked.retry_after = answer.status_code, answer.headers.get("retry-after")
        return answer.status_code == 200

    async def post(self, asked: Asked, path: str, body: dict[str, Any]) -> Any:
        answer = await self.http.post(path, json=body)
        if self.answered(asked, answer):
            return answer.json()
        asked.wrong = answer.text[:200]
        return None

    async def embed(self, asked: Asked) -> None:
        """Two texts: one of all requests, which must always give the same, and one that nothing has cached."""
        body = {"model": EMBEDDINGS, "input": [TEXT, f"{TEXT} {self.number}"]}
        if document := await self.post(asked, "/v1/embeddings", body):
            first, second = (row["embedding"] for row in document["data"])
            self.embedded = usual = self.embedded or first
            if product(first, usual) < 0.999 or not 0.5 < product(first, second) < 0.99999:
                asked.wrong = "another vector"

    async def chat(self, asked: Asked) -> None:
        words = f"Count from {self.number % 7 + 1} to 20."
        body = {"model": CHAT, "messages": [{"role": "user", "content": words}], "max_tokens": 24, "stream": True}
        began, came, last = time.perf_counter(), [], ""
        async with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if not self.answered(asked, answer):
                asked.wrong = (await answer.aread()).decode()[:200]
                return
            async for line in answer.aiter_lines():
                last = line or last
                if line.startswith("data: {") and text_of(json.loads(line[6:])):
                    came.append(time.perf_counter() - began)
        if last != "data: [DONE]" or not came:
            asked.wrong = f"{len(came)} pieces, then {last[:200]}"
            return
        asked.time_to_first_token_s = came[0]
        asked.time_per_output_token_s = (came[-1] - came[0]) / max(1, len(came) - 1)

    async def draw(self, asked: Asked) -> None:
        body = {"model": IMAGES, "prompt": "a red circle", "size": "64x64", "seed": self.number}
        if document := await self.post(asked, "/v1/images/generations", body):
            data = base64.b64decode(document["data"][0]["b64_json"])
            if data[:4] != b"\x89PNG" or struct.unpack(">II", data[16:24]) != (64, 64):
                asked.wrong = "no picture of this size"

    async def ready(self, asked: Asked) -> None:
        answer = await self.http.get("/readyz")
        if not self.answered(asked, answer):
            asked.wrong = answer.text[:300]


def text_of(event: dict[str, Any]) -> str:
    if "error" in event:
        raise ValueError(event["error"])
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def product(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


async def main(address: str, file: Path) -> None:
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: over.set())
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=CLIENT_S, trust_env=False, limits=limits) as http:
        client, running = Client(http), set[asyncio.Task[None]]()
        with file.open("w") as lines:

            async def one(task: str, due: float) -> None:
                behind = loop.time() - due
                asked = await client.ask(task)
                asked.behind_s = behind
                lines.write(json.dumps(asdict(asked)) + "\n")
                lines.flush()

            async def every(task: str, seconds: float) -> None:
                began, count = loop.time(), 0
                while not over.is_set():
                    running.add(asyncio.create_task(one(task, began + count * seconds)))
                    count += 1
                    await asyncio.sleep(max(0.0, began + count * seconds - loop.time()))

            await asyncio.gather(*(every(task, seconds) for task, seconds in EVERY_S.items()))
            await asyncio.gather(*running)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
