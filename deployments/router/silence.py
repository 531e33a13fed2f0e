"""Replicas that live and do not answer: a process that was stopped, a machine that swaps or is cut off.

Nothing ends a call to such a replica, and Serve would ask for minutes before it gives it up. So the router asks those
that work for it whether they are there. A question is answered beside the engine's work, however long that takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection

# Seconds between two looks, and without an answer after which a replica counts as silent. The longest pause of a live
# process that was seen on a busy machine of two cores is 3 s.
LOOK_S = 1.0
SILENT_S = 7.0


class Silence:
    """
    Args:
        ask: asks a replica and returns when it has answered. What it raises counts as an answer: a replica that is gone
            is found by its calls.
    """

    def __init__(self, ask: Callable[[str], Awaitable[object]]):
        self._ask = ask
        self._asked: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._looked = time.monotonic()

    def look(self, replicas: Collection[str]) -> set[str]:
        """Ask these replicas, unless they are being asked. Returns those that have been silent for too long."""
        now = time.monotonic()
        if now - self._looked > 2 * LOOK_S + SILENT_S / 2:  # it was this process that stood still
            self.forget(self._asked.keys())
        self._looked = now
        self.forget(self._asked.keys() - set(replicas))
        for replica in replicas:
            if replica not in self._asked:
                self._asked[replica] = (now, asyncio.create_task(self._answered(replica)))
        return {replica for replica, (since, _) in self._asked.items() if now - since > SILENT_S}

    def forget(self, replicas: Collection[str]) -> None:
        for replica in list(replicas):
            self._asked.pop(replica)[1].cancel()

    async def _answered(self, replica: str) -> None:
        with contextlib.suppress(Exception):
            await self._ask(replica)
        self._asked.pop(replica, None)
