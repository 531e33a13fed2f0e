"""The start of a replica in phases, which are timed and visible from outside while it runs.

schedule   waiting for resources, which the router measures from Serve's status
import     from the start of the process until the engine's libraries are imported
fetch      downloading weights that are not on this machine yet
load       loading weights into memory, and the engine's own start
compile    kernels and graphs, for backends that report the time
warm_up    the first requests
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import psutil

from deployments.board import COLD_START, FAILURE, PROGRESS, Board
from deployments.servers.causes import explain
from deployments.settings import ModelArgs

logger = logging.getLogger("ray.serve")

# Progress is put on the board in steps of this much.
STEP = 0.01


class ColdStart:
    """
    Args:
        replica: Serve's id of the replica.
    """

    def __init__(self, args: ModelArgs, replica: str, board: Board):
        self.args = args
        self.replica = replica
        self.board = board
        self.process_started = psutil.Process().create_time()
        self.seconds: dict[str, float] = {}
        self._progress = PROGRESS.format(app=args.spec.id, replica=replica)
        self._fraction = 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase and show it. An exception becomes the cause that operators and clients read."""
        # The time before the first phase, for Python, Ray and this module, belongs to "import".
        since = time.time() if self.seconds else self.process_started
        self._show(name, since)
        try:
            yield
        except Exception as error:
            self.failed(name, error)
            raise
        self.seconds[name] = time.time() - since

    def fraction(self, done: float) -> None:
        """Report the progress of the current phase, 0 to 1, for phases that know it."""
        if done - self._fraction >= STEP:
            self._fraction = done
            self.board.put(self._progress, {**self._shown, "fraction": round(done, 2)})

    def failed(self, phase: str, error: Exception) -> None:
        cause, remedy = explain(error, phase)
        logger.error("%s failed in the phase %s: %s", self.args.spec.id, phase, cause, exc_info=error)
        fact = {"cause": cause, "remedy": remedy, "at": time.time(), **self._who()}
        self.board.put(FAILURE.format(app=self.args.spec.id), fact)
        self.board.remove(self._progress)

    def ready(self) -> None:
        """Report that the replica takes requests now."""
        fact = {
            **self._who(),
            "replica": self.replica,
            "process_started": self.process_started,
            "seconds": self.seconds,
        }
        self.board.put(COLD_START.format(app=self.args.spec.id, variant=self.args.variant_name), fact)
        # It takes a moment until Serve reports the replica as running. The router then removes the progress.
        self.board.put(self._progress, {**self._shown, "done": True})
        self.board.remove(FAILURE.format(app=self.args.spec.id))
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        logger.info("%s@%s is ready: %s", self.args.spec.row, self.args.variant_name, times)

    def _show(self, phase: str, since: float) -> None:
        self._fraction = 0.0
        self._shown = {"phase": phase, "since": since, **self._who()}
        self.board.put(self._progress, self._shown)

    def _who(self) -> dict[str, Any]:
        return {"variant": self.args.variant_name, "release": self.args.release}
