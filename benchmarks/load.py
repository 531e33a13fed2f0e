"""A lean closed-loop load: N clients, each sending its next request when the last one is answered.

A client that is refused comes back when Retry-After said. Its answer is timed from the try that was let in.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
import numpy as np

# A server that is not there is not worth a thousand lines.
MOST_FAILURES = 20
# A client that is still refused after this long goes away.
PATIENCE_S = 60.0
PROMPT = "Write a short story about a dog who learns to sail. Part {number}."


class Refused(Exception):
    """There is no room, and the server says when to come back.

    Attributes:
        again_s: after so many seconds.
    """

    def __init__(self, status: int, again_s: float):
        super().__init__(f"{status}: refused")
        self.again_s = again_s


@dataclass(slots=True)
class Sample:
    """One request: seconds to the first token (streams) and to the end, and the number of tokens."""

    first: float
    total: float
    tokens: int

    def good(self, limits: Mapping[str, float]) -> bool:
        """Whether it keeps the limits of `slo.yaml` for a chat, as far as they are given."""
        figures = {"time_to_first_token_s": self.first, "duration_s": self.total}
        if self.tokens > 1:
            figures["time_per_output_token_s"] = (self.total - self.first) / (self.tokens - 1)
        return all(figures[name] <= limit for name, limit in limits.items() if name in figures)


@dataclass(slots=True)
class Result:
    """
    Attributes:
        refusals: how often a client was refused. turned_away: requests that were refused until their client went away.
        failures: requests that ended in any other way without an answer.
    """

    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    failures: int = 0
    refusals: int = 0
    turned_away: int = 0

    @property
    def requests(self) -> int:
        return len(self.samples) + self.failures + self.turned_away

    def good(self, limits: Mapping[str, float]) -> float:
        """The share of requests whose answer kept the limits."""
        return sum(sample.good(limits) for sample in self.samples) / max(1, self.requests)

    def rate(self) -> float:
        """Tokens per second; requests per second where there are no tokens."""
        return sum(sample.tokens or 1 for sample in self.samples) / self.seconds

    def quantile(self, what: str, q: float) -> float:
        """In milliseconds; NaN if nothing was answered."""
        if not self.samples:
            return math.nan
        return float(np.quantile([getattr(sample, what) for sample in self.samples], q)) * 1000


async def run_clients(clients: int, requests: int, send) -> Result:
    """`clients` clients call `send(session, number)` `requests` times in all."""
    result = Result()
    numbers = iter(range(requests))

    async def client(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            try:
                result.samples.append(await until_let_in(send, session, number, result))
            except Refused:
                result.turned_away += 1
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


async def until_let_in(send, session: aiohttp.ClientSession, number: int, result: Result) -> Sample:
    """Raises Refused: it still is, and the client has no more patience."""
    began = time.perf_counter()
    while True:
        try:
            return await send(session, number)
        except Refused as refused:
            result.refusals += 1
            if time.perf_counter() - began + refused.again_s > PATIENCE_S:
                raise
            await asyncio.sleep(refused.again_s)


async def check_answered(answer: aiohttp.ClientResponse) -> None:
    """Raises Refused, or AssertionError: the server has failed, or does not say when to come back."""
    if answer.status in (429, 503) and answer.headers.get("Retry-After", "").isdecimal():
        raise Refused(answer.status, float(answer.headers["Retry-After"]))
    assert answer.status == 200, f"{answer.status} {(await answer.text())[:200]}"


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
            await check_answered(answer)
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
            await check_answered(answer)
            text = await answer.text()
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
            await check_answered(answer)
            await answer.read()
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
