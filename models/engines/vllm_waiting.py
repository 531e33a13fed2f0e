"""Has vLLM's processes sleep while they wait for each other, on CPUs.

vLLM's engine waits for its worker by spinning: for up to a second it asks whether there is something, and yields. That
saves a tenth of a millisecond of a step. On a GPU, a step takes a few. On a CPU it takes tens, and the spinning takes a
third of two cores, and keeps everybody else waiting for one (docs/decisions/0019).

vLLM calls this in each of its processes: it is one of its plugins (pyproject.toml, `vllm.general_plugins`).
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

# Set to 1 for variants that run on CPUs.
VARIABLE = "MEDLEY_VLLM_WAITS_ASLEEP"
# Milliseconds of a sleep. A message ends it, but vLLM may drop the notice of one.
NAP_MS = 2


def wait_asleep() -> None:
    """Replace the spinning of queues between processes by short sleeps that a message ends."""
    if os.environ.get(VARIABLE) != "1":
        return
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

    long_wait = SpinCondition.wait

    def wait(self: Any, timeout_ms: int | None = None) -> None:
        if time.monotonic() > self.last_read + self.busy_loop_s:
            long_wait(self, timeout_ms)
        elif self.local_notify_socket in dict(self.poller.poll(timeout=NAP_MS)):
            import zmq

            with contextlib.suppress(zmq.Again):
                self.local_notify_socket.recv(flags=zmq.NOBLOCK, copy=False)

    SpinCondition.wait = wait
