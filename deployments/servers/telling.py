"""What a replica tells of itself while it runs: what is asked of it, and how long requests take it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deployments.board import LOAD, PACE, Board
from deployments.servers.admission import Admission
from deployments.servers.pace import Work
from deployments.settings import ModelArgs

logger = logging.getLogger("ray.serve")

EVERY_S = 1.0
# What changed by less is not told again, but for AGAIN_S, because readers take old facts for no facts.
CHANGED = 0.05
AGAIN_S = 5.0
# The pace is told again when a size takes so much more or less.
PACE_CHANGED = 0.25
# Demand below this is none.
NOTHING = 0.005
TOLD = ("asked", "inside_s", "pending_s")

Sizes = tuple[str, Sequence[tuple[float, Work]]]


class Telling:
    """Puts facts on the board, about once a second.

    Args:
        sizes: requests of growing size, and the unit in which they are counted, such as "tokens of prompt".
    """

    def __init__(self, args: ModelArgs, replica: str, board: Board, admission: Admission, sizes: Sizes):
        self.board, self.admission = board, admission
        self.unit, self.sizes = sizes
        self._load = LOAD.format(app=args.spec.id, replica=replica)
        self._pace = PACE.format(app=args.spec.id, variant=args.variant_name)
        self._told: dict[str, float] = {}
        self._told_at = 0.0
        self._paces: list[list[float]] = []
        self._thread = ThreadPoolExecutor(1, "telling")  # of its own: if Ray's store hangs, one thread does

    async def run(self) -> None:
        while True:
            try:
                await self.tell(time.time(), time.monotonic())
            except Exception as error:  # a fact that is not told is told later
                logger.warning("telling the board failed: %s", type(error).__name__)
            await asyncio.sleep(EVERY_S)

    async def tell(self, at: float, now: float) -> None:
        """
        Args:
            at: Unix time. now: on the admission's clock.
        """
        demanded = self.admission.demanded(now)
        load = {name: demanded[name] if demanded[name] > NOTHING else 0.0 for name in TOLD}
        moved = any(abs(load[name] - self._told.get(name, -1.0)) > CHANGED * load[name] for name in load)
        if moved or (any(load.values()) and at - self._told_at > AGAIN_S):
            await self._put(self._load, {name: round(value, 4) for name, value in load.items()} | {"at": at})
            self._told, self._told_at = load, at
        if self.admission.pace.known and self.sizes and differs(paces := self._measured(), self._paces):
            await self._put(self._pace, {"unit": self.unit, "sizes": paces, "at": at})
            self._paces = paces

    def _measured(self) -> list[list[float]]:
        alone = [(size, self.admission.alone(work)) for size, work in self.sizes]
        return [[size, round(one.first_s, 4), round(one.piece_s, 5), round(one.whole_s, 4)] for size, one in alone]

    async def _put(self, key: str, fact: dict[str, Any]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self.board.put, key, fact)


def differs(paces: list[list[float]], before: list[list[float]]) -> bool:
    pairs = zip(paces, before, strict=False)
    return not before or any(abs(one[3] - old[3]) > PACE_CHANGED * old[3] for one, old in pairs)
