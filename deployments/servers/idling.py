"""A process that computes has the cores that nobody else wants, and a tenth of one where everybody does.

Linux starts a thread that wakes up on an idle core, if there is one. A core on which nothing runs but threads of the
class SCHED_IDLE counts as idle; one with a thread that is merely nice does not. So while a nice engine computes on one
core of two, all others crowd on the second one, and who passes a request on waits for who refuses another.

But where others take every core, a thread of that class stands still, and with it what it promised. So the process is
watched from outside: when one of its threads mostly waits, all are moved to the usual class, where they are nice, for
some seconds. Source: sched(7), and `sched_idle_cpu` in Linux's kernel/sched/fair.c.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from deployments.servers.threads import let_process_wait, lower

# Between two looks at the process.
LOOK_S = 0.2
# A thread that waits for a core for more than this part of the time between them does not get on.
MOSTLY = 0.8
# For so long its process is only nice then, and twice as long each time when it does not get on after that either. All
# processes come back at the same moments: one of SCHED_IDLE would find the cores taken by those that are nice still.
NICE_S, LONGEST_NICE_S = 5.0, 80.0
# A thread that has had less of a core in its life does not compute, and is not looked at: vLLM's worker has some fifty.
COMPUTES_S = 1.0


class Thread(NamedTuple):
    """Where a thread stands: proc(5), stat and schedstat."""

    wants_a_core: bool  # it runs or waits for one
    ran_ns: int
    waited_ns: int  # up to when it had a core the last time
    turns: int


def let_process_idle(pid: int) -> None:
    """From now on, a process has the cores that nobody else wants. Where its threads could not come back from there, or
    this system has no such class, they are ten nicer than others."""
    let_process_wait(pid)
    if may_come_back():
        threading.Thread(target=watch, args=(Idling(Path(f"/proc/{pid}/task")),), name="idling", daemon=True).start()


def may_come_back() -> bool:
    """Whether a nice thread may leave SCHED_IDLE again: root may, and whom RLIMIT_NICE allows so.

    It is tried on a thread that sleeps. One that may not come back sleeps for ever: if it woke up, it would want the
    interpreter's lock, and might hold it without getting a core.
    """
    end = threading.Event()
    subject = threading.Thread(target=end.wait, name="not idling", daemon=True)
    subject.start()
    assert subject.native_id is not None  # it has started
    lower(subject.native_id)
    try:
        put(subject.native_id, os.SCHED_IDLE)
        put(subject.native_id, os.SCHED_OTHER)
    except (OSError, AttributeError):
        return False
    end.set()
    return True


def watch(idling: "Idling") -> None:
    """Look again and again, at the same moments in each process, until this one has ended."""
    while idling.look(time.monotonic()):
        time.sleep(LOOK_S - time.monotonic() % LOOK_S)


class Idling:
    """
    Args:
        tasks: the folder of the process's threads in /proc.
    """

    def __init__(self, tasks: Path):
        self.tasks = tasks
        self.idle, self.since, self.nice_s = False, 0.0, NICE_S / 2
        self.looked_at, self.listed_until = 0.0, 0.0
        self.computing: dict[str, Thread] = {}  # those that are looked at, as they were

    def look(self, now: float) -> bool:
        """Choose the class of all threads. Returns whether the process is there still.

        Args:
            now: in seconds, of a clock that all processes of the machine share.
        """
        seconds, self.looked_at = now - self.looked_at, now
        if now >= self.listed_until:
            if not self.idle:
                self.idle, self.since = True, now
            return self._list(now, NICE_S)
        before, self.computing = self.computing, self._read(self.computing)
        waits = (waited_s(before[name], self.computing[name], seconds) for name in before)
        if self.idle and max(waits, default=0.0) > MOSTLY * seconds:
            again = now - self.since < NICE_S
            self.idle, self.nice_s = False, min(LONGEST_NICE_S, 2 * self.nice_s) if again else NICE_S
            return self._list(now, self.nice_s)
        return True

    def _list(self, now: float, until_s: float) -> bool:
        """Put every thread in its class, and see which are to be looked at, until the next multiple of these
        seconds."""
        self.listed_until = (now // until_s + 1) * until_s
        found = self._read(thread.name for thread in self.tasks.glob("*"))
        for name in found:
            put(int(name), os.SCHED_IDLE if self.idle else os.SCHED_OTHER)
        self.computing = {name: thread for name, thread in found.items() if thread.ran_ns >= COMPUTES_S * 1e9}
        return bool(found)

    def _read(self, names: Iterable[str]) -> dict[str, Thread]:
        return {name: read(self.tasks / name) for name in names}


def read(thread: Path) -> Thread:
    """One that has just ended does not want a core."""
    try:
        state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
        return Thread(state == "R", *map(int, (thread / "schedstat").read_text().split()))
    except OSError:
        return Thread(False, 0, 0, 0)


def waited_s(before: Thread, after: Thread, seconds: float) -> float:
    """For how long of these seconds a thread has waited for a core. Linux books a wait when it ends."""
    if after == before:
        return seconds if after.wants_a_core else 0.0
    return (after.waited_ns - before.waited_ns) / 1e9


def put(thread: int, policy: int) -> None:
    """Nothing happens where the thread has just ended."""
    with contextlib.suppress(ProcessLookupError):
        if os.sched_getscheduler(thread) != policy:
            os.sched_setscheduler(thread, policy, os.sched_param(0))
