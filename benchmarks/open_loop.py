"""Sends a schedule in an open loop, each request when it is due, and a closed loop that finds what a server can do.

It shares the cores with the server, so it does little: bodies are made before, and answers are searched, not parsed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from benchmarks.limiters import Limiter
from benchmarks.outcomes import BEYOND_PROMISE, FAILED, GIVEN_UP, GOOD, LATE, REFUSED, Outcome, part_within
from benchmarks.traffic import Asked
from models.slo import Targets

JSON = {"Content-Type": "application/json"}
TEXT = re.compile(rb'"content":\s*"[^"]')
ERROR = re.compile(rb'"error":\s*\{')
TOKENS = re.compile(rb'"completion_tokens":\s*(\d+)')
VECTOR, PICTURE = re.compile(rb'"embedding":'), re.compile(rb'"b64_json":\s*"')
DURATIONS = re.compile(r"dur=([\d.]+)")
END = b"data: [DONE]"
KEPT_BYTES = 4096
# Seconds between two requests to a bare server.
BARE_EVERY_S = 0.2


class Client:
    """
    Args:
        patience: a client leaves after so many times what is promised for the first piece, and then for each token.
    """

    def __init__(self, url: str, promise: Targets, session: aiohttp.ClientSession, patience: float):
        self.url, self.promise, self.session, self.patience = url.rstrip("/"), promise, session, patience
        self.now = asyncio.get_running_loop().time

    async def send(self, asked: Asked, outcome: Outcome) -> None:
        """Send it and fill the outcome. Whatever happens ends up there: nothing is raised."""
        outcome.sent = self.now() - outcome.due
        try:
            async with asyncio.timeout_at(outcome.due + self._first_s()) as limit:
                await self._exchange(asked, outcome, limit)
        except TimeoutError:
            outcome.end = GIVEN_UP
        except (aiohttp.ClientError, ValueError, OSError) as error:
            outcome.why = f"{type(error).__name__}: {error}"[:200]
        outcome.total = self.now() - outcome.due
        if not outcome.why and outcome.end == FAILED:
            outcome.answered(self.promise)

    def _first_s(self) -> float:
        return self.patience * (self.promise.time_to_first_token_s or self.promise.duration_s or 60)

    def _rest_s(self, tokens: int) -> float:
        """For the pieces of a stream after its first."""
        whole, token = self.promise.duration_s or 60, self.promise.time_per_output_token_s
        return self.patience * (whole if token is None else min(whole, token * tokens))

    async def _exchange(self, asked: Asked, outcome: Outcome, limit: asyncio.Timeout) -> None:
        async with self.session.post(self.url + asked.path, data=asked.body, headers=JSON) as answer:
            outcome.status = answer.status
            timing = answer.headers.get("Server-Timing", "")
            outcome.server_s = sum(float(part) for part in DURATIONS.findall(timing)) / 1000
            if answer.status != 200:
                note_refusal(outcome, answer.headers.get("Retry-After"), await answer.read())
            elif asked.stream:
                await self._stream(asked, outcome, answer, limit)
            else:
                body = await answer.read()
                found = len((VECTOR if "embedding" in asked.path else PICTURE).findall(body))
                if found != asked.amount:
                    outcome.why = f"{found} of {asked.amount} came"

    async def _stream(
        self, asked: Asked, outcome: Outcome, answer: aiohttp.ClientResponse, limit: asyncio.Timeout
    ) -> None:
        end = b""
        async for piece in answer.content.iter_any():
            end = (end + piece)[-KEPT_BYTES:]
            if outcome.first is None and TEXT.search(end):
                outcome.first = self.now() - outcome.due
                limit.reschedule(self.now() + self._rest_s(asked.amount))
        if ERROR.search(end) or END not in end:
            outcome.why = "the stream ended with an error" if ERROR.search(end) else "the stream has no end mark"
            return
        outcome.tokens = int(found[1]) if (found := TOKENS.search(end)) else 0
        if outcome.tokens != asked.amount:
            outcome.why = f"{outcome.tokens} of {asked.amount} tokens came"

    async def estimate(self, asked: Asked) -> dict:
        """What the server says that the request would take; empty if it says nothing."""
        try:
            async with self.session.post(f"{self.url}/v1/estimate", data=asked.body, headers=JSON) as answer:
                return await answer.json() if answer.status == 200 else {}
        except (aiohttp.ClientError, ValueError, OSError):
            return {}


@asynccontextmanager
async def connected(url: str, promise: Targets, patience: float):
    """A client that never waits for a connection of its own."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout()) as session:
        yield Client(url, promise, session, patience)


@asynccontextmanager
async def beside_a_bare_server(client: Client, url: str) -> AsyncIterator[list[float]]:
    """Ask a server that does nothing, again and again during the block. Yields the seconds that its answers took: what
    this machine and this client add to those of any server, just then."""
    took: list[float] = []

    async def ask() -> None:
        while True:
            began = client.now()
            async with client.session.post(url, data=b"{}", headers=JSON) as answer:
                await answer.read()
            took.append(client.now() - began)
            await asyncio.sleep(BARE_EVERY_S)

    asking = asyncio.create_task(ask())
    try:
        yield took
    finally:
        asking.cancel()
        await asyncio.wait([asking])
    if not asking.cancelled():
        asking.result()  # it broke


def note_refusal(outcome: Outcome, again: str | None, text: bytes) -> None:
    try:
        outcome.code = str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):  # of a proxy, which knows nothing of the API
        outcome.code = str(outcome.status)
    if outcome.status in (429, 503) or outcome.code == BEYOND_PROMISE:
        outcome.end = REFUSED
        outcome.retry_after = float(again) if again and re.fullmatch(r"\d+(\.\d+)?", again) else None
    else:
        outcome.why = f"{outcome.status}: {text[:150].decode(errors='replace')}"


async def open_loop(
    client: Client,
    schedule: Sequence[Asked],
    limiter: Limiter,
    until_s: float = 0.0,
    estimated: Iterable[int] = (),
) -> list[Outcome]:
    """Send each request when it is due, whatever became of those before it. Returns every attempt.

    Args:
        until_s: refused clients come back when Retry-After says, unless that is later than this second of the schedule.
        estimated: the numbers of the requests whose estimate is asked for just before.
    """
    start, outcomes, estimated = client.now() + 0.2, [], frozenset(estimated)

    async def one(number: int, asked: Asked) -> None:
        due = start + asked.at
        for back in itertools.count():
            outcome = Outcome(number, due, back)
            outcomes.append(outcome)
            if number in estimated and not back:
                outcome.estimate = await client.estimate(asked)
            await limited(client, asked, outcome, limiter)
            if outcome.end != REFUSED or outcome.retry_after is None:
                return
            due = client.now() + outcome.retry_after
            if due > start + until_s:
                return
            await sleep_until(client, due)

    async with asyncio.TaskGroup() as under_way:
        for number, asked in enumerate(schedule):
            await sleep_until(client, start + asked.at)
            under_way.create_task(one(number, asked))
    for outcome in outcomes:
        outcome.due -= start
    return outcomes


async def limited(client: Client, asked: Asked, outcome: Outcome, limiter: Limiter) -> None:
    """Send it if the limiter lets it in."""
    began = client.now()
    if not limiter.begin(began):
        outcome.end, outcome.local, outcome.total = REFUSED, True, began - outcome.due
        return
    await client.send(asked, outcome)
    limiter.end(client.now(), began, outcome.end in (GOOD, LATE))


async def sleep_until(client: Client, moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - client.now()))


class Everybody:
    """Waits until each of so many has done something."""

    def __init__(self, count: int):
        self.missing, self.all = set(range(count)), asyncio.Event()

    def has(self, place: int) -> None:
        self.missing.discard(place)
        if not self.missing:
            self.all.set()

    async def wait(self) -> None:
        await self.all.wait()


async def closed_loop(client: Client, draw: Callable[[], Asked], clients: int, seconds: float) -> tuple[float, float]:
    """Each client sends its next request when the last one is done. Returns requests a second: good ones, and all that
    were answered.

    Args:
        seconds: that are measured, from when every client has had an answer. The load stays until all requests of that
            time are done; of those that were under way at its edges, the part within it counts.
    """
    outcomes: list[Outcome] = []
    high = math.inf
    answered, past = Everybody(clients), Everybody(clients)

    async def run(place: int) -> None:
        await asyncio.sleep(min(seconds, 1.0) * place / clients)
        while True:
            if client.now() >= high:
                past.has(place)
            outcome = Outcome(len(outcomes), client.now())
            outcomes.append(outcome)
            await client.send(draw(), outcome)
            answered.has(place)
            # A server that refuses at once is not asked a thousand times a second.
            await asyncio.sleep(0.0 if outcome.end in (GOOD, LATE) else 0.05)

    async with asyncio.TaskGroup() as running:
        loops = [running.create_task(run(place)) for place in range(clients)]
        await answered.wait()
        low = client.now()
        high = low + seconds
        await past.wait()
        for loop in loops:
            loop.cancel()

    def rate(*ends: str) -> float:
        return sum(part_within(one, low, high) for one in outcomes if one.end in ends) / seconds

    return rate(GOOD), rate(GOOD, LATE)
