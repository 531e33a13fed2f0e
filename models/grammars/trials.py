"""Whether a grammar can be compiled in bounded time and memory, found out before an engine compiles it.

An engine's compiler cannot be stopped, and every other answer with a schema waits behind it. So each grammar is first
compiled in a process that can be killed; see compiling.py. What was found is remembered.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.errors import InvalidRequest, RateLimited, Unavailable

logger = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("compiling.py")
# CPU seconds. Most grammars take less than a tenth of the first. One that takes longer is tried again among its like,
# one at a time, so that it holds up no other. A text with a maxLength over 100 takes 1.4 s with 49,000 tokens on a slow
# core, and longer with more tokens.
QUICK_S = 0.5
SLOW_S = 3.0
QUICK_PLACES = 2
MOST_WAITING = 16
MOST_SLOW = 4
# Seconds on the clock after which the program itself is taken to be broken: CPU time is limited by itself.
PATIENCE_S = 90.0
REMEMBERED = 4096

Kind = Literal["json", "tag"]
# accepted; invalid: the compiler refuses it; complex: too large; slow: it took too long; impossible: no answer can
# follow it to its end.
Verdict = Literal["accepted", "invalid", "complex", "slow", "impossible"]

REFUSALS: dict[str, str] = {
    "invalid": "The schema cannot be compiled: the compiler of grammars does not support it. Make it simpler.",
    "complex": "The schema is too complex: its grammar takes too much memory. Make it smaller or flatter.",
    "slow": "The schema is too complex: to compile it takes too long. Use fewer properties and different lengths, and "
    "smaller counts in patterns.",
    "impossible": "The schema is impossible: no value follows it. Correct its patterns and limits.",
}


def too_many(seconds: float) -> RateLimited:
    return RateLimited("Too many new schemas are being compiled. Try again soon.", None, max(1.0, seconds))


class ProgramEnded(Exception):
    """The program that compiles ended or was ended. Its trials are lost."""


@dataclass(frozen=True, slots=True)
class Found:
    verdict: Verdict
    seconds: float


class Trials:
    """Trials for one vocabulary. The program starts with the first one and stays.

    Args:
        vocabulary: gives the vocabulary as xgrammar's TokenizerInfo writes it. Called in a thread, once for each start.
    """

    def __init__(self, vocabulary: Callable[[], str]):
        self._vocabulary = vocabulary
        self._program: Program | None = None
        self._starting = asyncio.Lock()
        self._found: OrderedDict[bytes, Found] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Task[Found]] = {}
        self._quick = asyncio.Semaphore(QUICK_PLACES)
        self._slow = asyncio.Lock()
        self._slow_ones = 0

    async def check(self, kind: Kind, text: str, param: str) -> None:
        """
        Args:
            text: a JSON schema or a structural tag.
            param: where it is in the request.

        Raises:
            InvalidRequest: it cannot be compiled, or not within the limits.
            RateLimited: too many others are being tried, or too many that are as slow.
            Unavailable: the program fails.
        """
        key = hashlib.sha256(f"{kind} {text}".encode(errors="surrogatepass")).digest()
        found = self._found.get(key)
        if found is None:
            if key not in self._under_way:
                if len(self._under_way) >= MOST_WAITING:
                    raise too_many(QUICK_S)
                self._under_way[key] = asyncio.create_task(self._try(key, kind, text))
                self._under_way[key].add_done_callback(lambda task: task.cancelled() or task.exception())
            # A client that leaves does not end the trial: others may wait for it.
            found = await asyncio.shield(self._under_way[key])
        else:
            self._found.move_to_end(key)
        if found.verdict != "accepted":
            raise InvalidRequest(REFUSALS[found.verdict], param)

    async def close(self) -> None:
        """End the program."""
        if self._program is not None:
            await self._program.end()

    async def _try(self, key: bytes, kind: Kind, text: str) -> Found:
        try:
            async with self._quick:
                found = await self._run(kind, text, QUICK_S)
            if found.verdict == "slow":
                found = await self._try_slowly(kind, text)
            self._found[key] = found
            if len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
            return found
        finally:
            del self._under_way[key]

    async def _try_slowly(self, kind: Kind, text: str) -> Found:
        if self._slow_ones >= MOST_SLOW:
            raise too_many(MOST_SLOW * SLOW_S)
        self._slow_ones += 1
        compiling_s = 0.0
        try:
            await self._slow.acquire()
            try:
                found = await self._run(kind, text, SLOW_S)
                compiling_s = found.seconds
                return found
            finally:
                # The engine will now compile it too. Until it has, no other slow one reaches it.
                asyncio.get_running_loop().call_later(compiling_s, self._slow.release)
        finally:
            self._slow_ones -= 1

    async def _run(self, kind: Kind, text: str, seconds: float) -> Found:
        for _ in range(2):
            program = await self._running()
            try:
                return await program.run(kind, text, seconds)
            except ProgramEnded:
                logger.error("the program that compiles grammars ended")
        raise Unavailable("Schemas cannot be compiled at the moment. Try again.", None, SLOW_S)

    async def _running(self) -> Program:
        async with self._starting:
            if self._program is None or self._program.ended:
                self._program = await Program.start(await asyncio.to_thread(self._vocabulary))
            return self._program


class Program:
    """compiling.py, running."""

    def __init__(self, process: asyncio.subprocess.Process):
        self._process = process
        self._waiting: dict[int, asyncio.Future[Found]] = {}
        self._number = 0
        self.ended = False
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, vocabulary: str) -> Program:
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        # Its standard error may quote schemas.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(PROGRAM), stdin=pipe, stdout=pipe, stderr=null, env=environment
        )
        program = cls(process)
        program._write(vocabulary.encode())
        return program

    async def run(self, kind: Kind, text: str, seconds: float) -> Found:
        """Raises ProgramEnded."""
        if self.ended:
            raise ProgramEnded
        self._number += 1
        number, answer = self._number, asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._write(json.dumps({"id": number, "kind": kind, "text": text, "seconds": seconds}).encode())
        try:
            return await asyncio.wait_for(answer, PATIENCE_S)
        except TimeoutError:
            await self.end()
            raise ProgramEnded from None

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer = json.loads(line)
            waiting = self._waiting.pop(answer["id"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(Found(answer["verdict"], answer["seconds"]))
        self.ended = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ProgramEnded())
