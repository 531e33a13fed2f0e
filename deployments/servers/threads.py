"""Work in an engine's own thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")


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
