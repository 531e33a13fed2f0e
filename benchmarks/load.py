"""A lean closed-loop load: N clients, each sending its next request when the last one is answered."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

import aiohttp
import numpy as np

# A server that is not there is not worth a thousand lines.
MOST_FAILURES = 20
PROMPT = "Write a short story about a dog who learns to sail. Part {number}."


@dataclass(slots=True)
class Sample:
    """One request: seconds to the first token (streams) and to the end, and the number of tokens."""

    first: float
    total: float
    tokens: int


@dataclass(slots=True)
class Result:
    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    failures: int = 0

    def rate(self) -> float:
        """Tokens per second; requests per second where there are no tokens."""
        return sum(sample.tokens or 1 for sample in self.samples) / self.seconds

    def quantile(self, what: str, q: float) -> float:
        """In milliseconds."""
        return float(np.quantile([getattr(sample, what) for sample in self.samples], q)) * 1000


async def run_clients(clients: int, requests: int, send) -> Result:
    """`clients` clients call `send(session, number)` `requests` times in all."""
    result = Result()
    numbers = iter(range(requests))

    async def client(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            try:
                result.samples.append(await send(session, number))
            except (aiohttp.ClientError, AssertionError) as error:
                print(f"    failed: {error!r}"[:200])
                result.failures += 1
                if result.failures > MOST_FAILURES:
                    raise

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as session:
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        result.seconds = time.perf_counter() - started
    return result


def chat_body(model: str, tokens: int, number: int) -> dict:
    """A chat whose answer has exactly this many tokens."""
    messages = [{"role": "user", "content": PROMPT.format(number=number)}]
    return {"model": model, "messages": messages, "max_tokens": tokens, "ignore_eos": True}


def chat_stream(url: str, model: str, tokens: int):
    """A streamed chat of exactly `tokens` tokens."""

    async def send(session: aiohttp.ClientSession, number: int) -> Sample:
        body = {**chat_body(model, tokens, number), "temperature": 0.7, "seed": number, "stream": True}
        first, count = 0.0, 0
        started = time.perf_counter()
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200, f"{answer.status} {(await answer.text())[:200]}"
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    count += 1
                    if count == 2:  # the first event has the role only
                        first = time.perf_counter() - started
        assert count >= tokens, f"{count} events"
        return Sample(first, time.perf_counter() - started, tokens)

    return send


def chat_whole(url: str, model: str, tokens: int):
    """A chat answered in one document."""

    async def send(session: aiohttp.ClientSession, number: int) -> Sample:
        body = {**chat_body(model, tokens, number), "temperature": 0}
        started = time.perf_counter()
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            text = await answer.text()
            assert answer.status == 200, text[:200]
            assert json.loads(text)["usage"]["completion_tokens"] == tokens
        total = time.perf_counter() - started
        return Sample(total, total, tokens)

    return send


def embedding(url: str, model: str):
    """One sentence, embedded."""

    async def send(session: aiohttp.ClientSession, number: int) -> Sample:
        body = {"model": model, "input": PROMPT.format(number=number), "encoding_format": "base64"}
        started = time.perf_counter()
        async with session.post(f"{url}/v1/embeddings", json=body) as answer:
            text = await answer.read()
            assert answer.status == 200, text[:200]
        total = time.perf_counter() - started
        return Sample(total, total, 0)

    return send


def get(url: str, path: str):
    async def send(session: aiohttp.ClientSession, number: int) -> Sample:
        started = time.perf_counter()
        async with session.get(url + path) as answer:
            await answer.read()
            assert answer.status == 200
        total = time.perf_counter() - started
        return Sample(total, total, 0)

    return send
