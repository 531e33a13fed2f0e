"""Work in an engine's own threads, which let others go first.

An engine on CPUs has every core busy for as long as it works. Whoever only passes a request on, refuses one or sends
a token needs a millisecond, but has to wait for a core at each step of its way. So threads and processes that compute
have a lower priority, and threads that they start inherit it.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# How much nicer than its replica's other threads is what computes: it has a tenth of their share of a core.
NICER = 10


def engine_thread(name: str) -> ThreadPoolExecutor:
    """One thread that lets others go first."""
    return ThreadPoolExecutor(1, name, initializer=let_others_go_first)


def let_others_go_first() -> None:
    """Lower the priority of this thread. On Linux a nice value is a thread's own, not its process's."""
    lower(threading.get_native_id())


def let_process_wait(pid: int) -> None:
    """Lower the priority of all threads of another process, such as an engine's worker."""
    with contextlib.suppress(OSError):  # it has just ended, or this system has no such folder
        for thread in Path(f"/proc/{pid}/task").iterdir():
            lower(int(thread.name))


def lower(thread: int) -> None:
    """Nothing happens where a thread has just ended, or where threads have no priorities."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICER)


async def run_in(thread: Executor, work: Callable[..., T], *args: Any) -> T:
    """The result of `work(*args)` in this thread.

    Raises:
        RuntimeError: it raised StopIteration. A future cannot hold that: whoever waits for it would wait forever.
    """

    def guarded() -> T:
        try:
            return work(*args)
        except StopIteration as error:
            raise RuntimeError("the engine raised StopIteration") from error

    return await asyncio.get_running_loop().run_in_executor(thread, guarded)
