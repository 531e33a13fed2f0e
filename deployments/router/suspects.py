"""Requests that a replica worked on when it died: any of them may have killed it.

A call whose replica dies is made once more, for most replicas die of something else: a machine that fails, a full
memory, an operator. But if one of its calls killed it, the next replica must not die of the same. So these calls begin
one at a time, and if a replica dies while one has its turn, that one is taken for the killer. It is refused for
REMEMBERED_S, and whoever was beside it is not.

Every router has its own table, of digests only: a request's content is not kept. Nothing is computed before a replica
dies. See docs/decisions/0027.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import orjson

from deployments.router.dispatch import Deadline, Lost
from models.errors import SuspectedRequest
from models.tasks.methods import Method

# How long a request is remembered after the death of a replica that worked on it.
REMEMBERED_S = 600.0
# Of a suspect's run: what kills an engine does so when work on it begins.
TURN_S = 2.0
# A call that a dying replica did not take is sent again after this time, when that replica is gone.
PAUSE_S = 0.5
# Requests in the table; the oldest are forgotten first.
MOST = 1000


@dataclass(slots=True)
class Suspect:
    """
    Attributes:
        until: the monotonic time at which it is forgotten.
        refused: it was seen to kill.
    """

    model: str
    until: float
    refused: bool = False


class Suspects:
    """The requests that one router suspects.

    Args:
        key: of digests, at most 64 bytes; a random one unless given.
    """

    def __init__(self, key: bytes | None = None):
        self._key = key or os.urandom(16)
        self._found: dict[bytes, Suspect] = {}  # those that were suspected last come last
        self._turns: dict[str, asyncio.Lock] = {}

    def watch(self, model: str, method: Method[Any, Any], asked: Any) -> Watched:
        """Watch one call, with all its tries."""
        return Watched(self, model, method.name, asked)

    def find(self, digest: bytes) -> Suspect | None:
        return self._found.get(digest)

    def of(self, model: str) -> bool:
        """Whether any request to a model is suspected. Forgets old ones."""
        now = time.monotonic()
        while self._found and (oldest := next(iter(self._found.items())))[1].until <= now:
            del self._found[oldest[0]]
        return any(one.model == model for one in self._found.values())

    def suspect(self, digest: bytes, model: str, refused: bool = False) -> None:
        refused = refused or (digest in self._found and self._found.pop(digest).refused)
        self._found[digest] = Suspect(model, time.monotonic() + REMEMBERED_S, refused)
        while len(self._found) > MOST:
            del self._found[next(iter(self._found))]

    def clear(self, digest: bytes) -> None:
        self._found.pop(digest, None)

    async def turn(self, model: str, deadline: Deadline) -> Turn:
        """Wait until no other suspect begins. Raises DeadlineExceeded."""
        lock = self._turns.setdefault(model, asyncio.Lock())
        try:
            async with asyncio.timeout(deadline.left()):
                await lock.acquire()
        except TimeoutError:
            raise deadline.exceeded() from None
        return Turn(lock)

    def digest(self, model: str, method: str, asked: Any) -> bytes:
        """Equal for equal requests, whatever their ids. It tells nothing to who does not have the key."""
        try:
            options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS
            content = orjson.dumps([model, method, asked], default=_plain, option=options)
        except TypeError:  # not what comes from JSON: told apart by its form alone
            content = repr((model, method, asked)).encode(errors="replace")
        return hashlib.blake2b(content, digest_size=16, key=self._key).digest()


def _plain(value: Any) -> Any:
    """What orjson does not write: our own types by the fields that make two of them equal, bytes by their digest."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value) if field.compare}
    if isinstance(value, bytes | bytearray | memoryview):
        return hashlib.blake2b(value).hexdigest()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError


class Turn:
    """Ends at the first item, at the end of the try, or after TURN_S."""

    def __init__(self, lock: asyncio.Lock):
        self.held = True
        self._lock = lock
        self._timer = asyncio.get_running_loop().call_later(TURN_S, self.end)

    def end(self) -> None:
        if self.held:
            self.held = False
            self._timer.cancel()
            self._lock.release()


class Watched:
    """One call, from its first try to its end.

    Attributes:
        begun: it has given an item, so it is not made again.
    """

    def __init__(self, suspects: Suspects, model: str, method: str, asked: Any):
        self.begun = False
        self._suspects = suspects
        self._model = model
        self._method = method
        self._asked = asked
        self._digest: bytes | None = None
        self._turn: Turn | None = None
        self._ran = self._missed = False

    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = self._suspects.digest(self._model, self._method, self._asked)
        return self._digest

    @asynccontextmanager
    async def one_try(self, deadline: Deadline) -> AsyncIterator[None]:
        """Around each try. A suspect waits for its turn.

        Raises:
            SuspectedRequest: it was seen to kill.
            DeadlineExceeded: its turn did not come.
        """
        suspected = self._suspected()
        if suspected:
            self._turn = await self._suspects.turn(self._model, deadline)
        try:
            if suspected:
                self._suspected()  # another one just like it may have been seen to kill meanwhile
            yield
            if suspected:
                self._suspects.clear(self.digest())
        except Lost as lost:
            if lost.ran:
                alone = self._turn is not None and self._turn.held
                self._suspects.suspect(self.digest(), self._model, refused=alone)
            raise
        finally:
            self._end_turn()

    def _suspected(self) -> bool:
        if not self._suspects.of(self._model):
            return False
        found = self._suspects.find(self.digest())
        if found is not None and found.refused:
            minutes = max(1, math.ceil((found.until - time.monotonic()) / 60))
            raise SuspectedRequest(
                f"{self._model} stopped twice while it worked on this request, so the request is refused for "
                f"{minutes} minutes. Change it, or tell the operator."
            )
        return found is not None

    def answers(self) -> None:
        """It has given an item: the replica lives through the beginning of the work."""
        self.begun = True
        self._end_turn()

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.end()

    async def again(self, lost: Lost) -> None:
        """Returns if the call may be made again: once if it ran, and once if the replica was gone already.

        Raises:
            Lost: if not.
        """
        if self.begun or (self._ran if lost.ran else self._missed):
            raise lost
        if lost.ran:
            self._ran = True
        else:
            self._missed = True
            await asyncio.sleep(PAUSE_S)
