"""How a replica starts: phase by phase, timed, and readable from outside while it goes on.

schedule   waiting for a place; Serve knows it, the router measures it
import     from the start of the process until the engine's libraries are imported
fetch      weights to this machine, where they are not there yet
load       weights into memory, the engine's own start
compile    kernels and graphs, where a backend says how long that took
warm_up    first requests
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

# A fraction is put on the board when it has grown by this much.
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
        """Time a phase and show it. What it raises becomes the cause that operators and clients read."""
        # What came before the first phase is Python, Ray and the imports of this module: the start of "import".
        since = time.time() if self.seconds else self.process_started
        self._show(name, since)
        try:
            yield
        except Exception as error:
            self.failed(name, error)
            raise
        self.seconds[name] = time.time() - since

    def fraction(self, done: float) -> None:
        """How much of the current phase is done, from 0 to 1, for phases that can count it."""
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
        """The replica takes requests from now on."""
        fact = {
            **self._who(),
            "replica": self.replica,
            "process_started": self.process_started,
            "seconds": self.seconds,
        }
        self.board.put(COLD_START.format(app=self.args.spec.id, variant=self.args.variant_name), fact)
        # Serve needs a moment more until it says so too; the router takes the progress away then.
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
