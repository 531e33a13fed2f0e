"""What a Kubernetes Service and a gateway do: send each request to a node whose readiness probe says yes."""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from namespaces import OUTSIDE, Machine

PROBE_S = 2.0
PROBE_TIMEOUT_S = 6.0
CONNECT_S = 2.0
CONNECTION = re.compile(rb"\r\nconnection:[^\r]*", re.IGNORECASE)
NOBODY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"


class Service:
    """
    Args:
        pods: the nodes there are now.

    Attributes:
        ready: addresses that requests go to.
        posted: requests that were sent, questions about models not counted.
        events: how often a node could not be reached (the request went to another: nothing had been sent), a
            connection ended without an answer, and nobody was ready.
    """

    def __init__(self, pods: Callable[[], Sequence[Machine]]):
        self.address = f"http://{OUTSIDE}:8000"
        self.pods = pods
        self.ready: list[str] = []
        self.posted = 0
        self.events: Counter[str] = Counter()
        self._turn = itertools.count()
        self._closed = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._threads = [threading.Thread(target=self._probe), threading.Thread(target=self._serve)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closed.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join()
        self._loop.close()

    def _probe(self) -> None:
        while not self._closed.wait(PROBE_S):
            # A pod that has ended leaves the endpoints when its next probe would be due.
            self.ready = [pod.address for pod in self.pods() if is_ready(pod)]

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._forward, OUTSIDE, 8000, backlog=512))
        self._loop.run_forever()
        server.close()
        under_way = asyncio.all_tasks(self._loop)
        for task in under_way:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*under_way, return_exceptions=True))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of one connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.posted += head.startswith(b"POST")
            there = await self._connect()
            if there is None:
                self.events["nobody ready"] += 1
                writer.write(NOBODY)
                await writer.drain()
                return
            answer, ask = there
            ask.write(CONNECTION.sub(b"", head[:-2]) + b"Connection: close\r\n\r\n")
            asking = asyncio.create_task(copy(reader, ask))
            try:
                if not await copy(answer, writer):
                    self.events["no answer"] += 1
            finally:
                asking.cancel()
                ask.close()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        ready = list(self.ready)
        start = next(self._turn)
        for turn in range(len(ready)):
            try:
                async with asyncio.timeout(CONNECT_S):
                    return await asyncio.open_connection(ready[(start + turn) % len(ready)], 8000)
            except (OSError, TimeoutError):
                self.events["not reached"] += 1
        return None


def is_ready(pod: Machine) -> bool:
    try:
        return pod.run(sys.executable, "-m", "medley.node.ready", timeout=PROBE_TIMEOUT_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Until the end. Returns how many bytes there were, also when the connection broke."""
    passed = 0
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
            passed += len(data)
    except OSError:
        pass
    return passed
