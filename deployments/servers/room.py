"""Room for pictures in a replica's memory.

A file of some kilobytes may hold a hundred megabytes of pixels, and many requests run at once. Each says before its
work how much memory it will take, and waits until so much is free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from models.errors import PayloadTooLarge, RateLimited

MIB = 1 << 20

# Requests that need at most this part of the room do not wait behind larger ones.
SMALL = 1 / 32
# Files of requests that wait may take this part of the room in addition to it.
WAITING = 1 / 4

RETRY_AFTER_S = 5.0


@dataclass(slots=True, eq=False)
class Waiting:
    size: int
    files: int
    turn: asyncio.Future[None]


class Room:
    """
    Args:
        limit: bytes, for all requests together.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.taken = 0
        self._queue: deque[Waiting] = deque()

    @asynccontextmanager
    async def holds(self, size: int, files: int) -> AsyncIterator[None]:
        """`async with room.holds(...)` around work that takes `size` bytes. Waits for its turn, in order of arrival.

        Args:
            files: bytes that the request holds already while it waits.

        Raises:
            PayloadTooLarge: it would not fit even alone.
            RateLimited: the files of those who wait take too much memory already.
        """
        if size > self.limit:
            raise PayloadTooLarge(
                f"This request would take {size / MIB:.0f} MiB while its pictures are read, kept and written; this "
                f"model has {self.limit / MIB:.0f} MiB for all of them. Send smaller pictures, ask for fewer (n, "
                "partial_images) or for a smaller size, or for png or jpeg in place of webp."
            )
        await self._turn(size, files)
        try:
            yield
        finally:
            self._free(size)

    async def _turn(self, size: int, files: int) -> None:
        if self._fits(size) and (not self._queue or size <= self.limit * SMALL):
            self.taken += size
            return
        if files + sum(other.files for other in self._queue) > self.limit * WAITING:
            raise RateLimited(
                f"Too many large pictures wait for their turn. Try again in {RETRY_AFTER_S:.0f} s.", None, RETRY_AFTER_S
            )
        waiting = Waiting(size, files, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.cancelled():
                self._let_in()  # the next one may be smaller
            else:  # its turn came at the same moment
                self._free(size)
            raise

    def _fits(self, size: int) -> bool:
        return self.taken + size <= self.limit

    def _free(self, size: int) -> None:
        self.taken -= size
        self._let_in()

    def _let_in(self) -> None:
        self._queue = deque(waiting for waiting in self._queue if not waiting.turn.done())
        while self._queue and self._fits(self._queue[0].size):
            waiting = self._queue.popleft()
            self.taken += waiting.size
            waiting.turn.set_result(None)
