"""Notices pass between the routers of a cluster: who was refused by one may come back to any.

Each router takes what the others gave since it took last. Nothing is kept for a router that has stopped taking, and a
notice that is lost costs somebody a turn and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

# How long `take` waits for a notice. A router that has not asked for three times as long is gone.
WAIT_S = 10.0
# For one router; the oldest are lost first.
MOST_UNREAD = 20_000


class Notices(Protocol):
    async def give(self, router: str, notices: Sequence[Any]) -> None:
        """Notices of this router, for all others."""
        ...

    async def take(self, router: str) -> list[Any]:
        """Those of the others that this router has not taken, the oldest first. Waits for some; [] if none comes."""
        ...

    def leave(self) -> None:
        """This router is alone."""
        ...


@dataclass(slots=True)
class Unread:
    at: float  # when the router last asked
    notices: list[Any] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryNotices:
    """Notices in this process. On a cluster it runs in an actor; see ray_notices.py."""

    def __init__(self):
        self.unread: dict[str, Unread] = {}

    async def give(self, router: str, notices: Sequence[Any]) -> None:
        now = time.monotonic()
        self.unread = {name: one for name, one in self.unread.items() if now - one.at < 3 * WAIT_S}
        for name, one in self.unread.items():
            if name != router:
                one.notices = [*one.notices, *notices][-MOST_UNREAD:]
                one.came.set()

    async def take(self, router: str) -> list[Any]:
        mine = self.unread.setdefault(router, Unread(0.0))
        mine.at = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await mine.came.wait()
        mine.came.clear()
        found, mine.notices, mine.at = mine.notices, [], time.monotonic()
        return found

    def leave(self) -> None:
        return None
