"""How long a test waits: until something holds, with a patience that grows where this machine is slow or busy.

A test says what it waits for, never how fast that must be. The seconds it gives are those of an idle machine of two
cores, and are spent only where something is broken."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_S = 30.0

# What the work below takes on the machine that the seconds in tests are written for: idle, 2026.
REFERENCE_S = 0.016

_found: list[float] = []


def work() -> None:
    """A fixed piece of work in pure Python, as most tests are."""
    table: dict[int, str] = {}
    for number in range(200_000):
        table[number % 1000] = str(number)


@cache
def slowness() -> float:
    """How many times as long as on the reference a piece of work takes here and now, by the wall; never below 1."""
    return max(1.0, _best_of(time.perf_counter) / REFERENCE_S)


def slowness_of_cpu() -> float:
    """The same by the process clock: other processes do not count, but a slow core does. The highest of what was found
    so far and now, because cores that are shared with other machines are slow at times."""
    _found.append(max(1.0, _best_of(time.process_time) / REFERENCE_S))
    return max(_found)


def _best_of(clock: Callable[[], float], runs: int = 3) -> float:
    times = []
    for _ in range(runs):
        began = clock()
        work()
        times.append(clock() - began)
    return min(times)


def patience(seconds: float = PATIENCE_S) -> float:
    """Seconds to wait here for what an idle machine does well within `seconds`."""
    return seconds * slowness()


def wait_until(condition: Callable[[], T], what: str, seconds: float = PATIENCE_S, every: float = 0.02) -> T:
    """Wait in this thread until the condition is true; returns what it gave.

    Raises:
        AssertionError: it was not, after the patience of this machine; says what was waited for.
    """
    deadline = time.monotonic() + patience(seconds)
    while not (held := condition()):
        assert time.monotonic() < deadline, f"waited {patience(seconds):.0f} s in vain: {what}"
        time.sleep(every)
    return held


async def until(
    condition: Callable[[], Any | Awaitable[Any]], what: str, seconds: float = PATIENCE_S, every: float = 0.005
) -> Any:
    """The same on an event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + patience(seconds)
    while True:
        held = condition()
        if isinstance(held, Awaitable):
            held = await held
        if held:
            return held
        assert time.monotonic() < deadline, f"waited {patience(seconds):.0f} s in vain: {what}"
        await asyncio.sleep(every)
