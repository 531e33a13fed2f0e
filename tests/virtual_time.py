"""Time that passes only when everybody waits: an event loop that goes to its next timer at once where nothing else is
to be done. The scheduling is asyncio's own, and so is the order of events; only the waiting is left out.

A test has such a loop, and the product its clock, where the test asks for the fixture `virtual_clock` (conftest.py).
Work that the loop gave to a thread takes no time on this clock: it stands still until the work is done. So a test that
holds such a thread and lets it go later, or that talks to real sockets, stays on real time."""

import asyncio
import selectors
import sys
import time
from functools import cache
from types import ModuleType
from typing import Any

import pytest
from patience import patience

# No test waits for longer than this on the virtual clock, so one that would wait for ever fails at once.
LONGEST_S = 3600.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at the time that it is. `threads`: how many of its works are in one."""

    def __init__(self) -> None:
        self.threads = 0
        self.began = self._now = time.monotonic()
        self.unix = time.time() - self._now
        super().__init__(Jumping(self))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        self._now += seconds
        if self._now - self.began > LONGEST_S:
            self.began = self._now  # what is left can still be tidied up
            raise AssertionError(f"after {LONGEST_S:.0f} s of virtual time the test still waits")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        future = super().run_in_executor(executor, func, *args)
        self.threads += 1
        future.add_done_callback(self._a_thread_is_done)
        return future

    def _a_thread_is_done(self, _: asyncio.Future[Any]) -> None:
        self.threads -= 1

    async def shutdown_default_executor(self, *args: Any) -> None:
        self.threads += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self.threads -= 1


class Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if (found := super().select(0)) or timeout == 0:
            return found
        if timeout is not None and not self.loop.threads:
            self.loop.jump(timeout)
            return []
        if found := super().select(patience()):
            return found
        raise AssertionError("the test waits for what does not come: there is no timer, and no thread gets done")


class LoopTime(ModuleType):
    """In place of the module `time`: the clock of the running loop where that is virtual."""

    def monotonic(self) -> float:
        return loop.time() if (loop := running()) else time.monotonic()

    perf_counter = monotonic

    def time(self) -> float:
        return loop.unix + loop.time() if (loop := running()) else time.time()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def running() -> VirtualLoop | None:
    loop = asyncio._get_running_loop()
    return loop if isinstance(loop, VirtualLoop) else None


@cache
def readers_of_time(imported: int) -> list[ModuleType]:
    """The modules of the product that read the clock, of so many that are imported. To look through thousands of them
    before each test would take seconds."""
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("deployments.")]
    return [module for module in ours if "time" in vars(module)]


def follow_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the modules of `deployments` read the clock of the loop."""
    for module in readers_of_time(len(sys.modules)):
        monkeypatch.setattr(module, "time", LoopTime("time"))


def now() -> float:
    """The time on the clock of the running loop."""
    return asyncio.get_running_loop().time()
