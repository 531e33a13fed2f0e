"""Whether the load generator itself was healthy: before it judges a server, it judges itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtest import clock
from loadtest.bounds import quantile
from loadtest.records import Record

# Even on a busy machine, sleeping until a moment is exact to a few milliseconds.
LAG_S = 0.02
# As a share of the shortest limit: what the generator adds must not decide a verdict.
LAG_SHARE = 0.1
# As a share of one core: above it, requests wait for the generator and not for the server.
CPU = 0.5
PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True, slots=True)
class Health:
    """
    Attributes:
        lag_p99_s: how much later than due requests were sent. allowed_lag_s: how much is allowed.
        cpu: cores that the busiest generator process used. pressure: share of the time in which some process of the
            machine waited for a core, None where the kernel does not tell.
        unsent: attempts that were due and never sent.
        ill: what is wrong with the generator, empty if nothing.
    """

    lag_p99_s: float = 0.0
    allowed_lag_s: float = LAG_S
    cpu: float = 0.0
    pressure: float | None = None
    unsent: int = 0
    ill: str = ""


@dataclass(slots=True)
class Watch:
    """CPU time that this process has used, and waited for, since this object was made."""

    began: float = 0.0
    cpu_s: float = 0.0
    waited_s: float | None = None

    def __post_init__(self) -> None:
        self.began, self.cpu_s, self.waited_s = clock.now(), own_cpu_s(), waited_for_cpu_s()

    def cpu(self) -> float:
        """Cores of this process."""
        return (own_cpu_s() - self.cpu_s) / max(1e-9, clock.now() - self.began)

    def pressure(self) -> float | None:
        now = waited_for_cpu_s()
        if now is None or self.waited_s is None:
            return None
        return (now - self.waited_s) / max(1e-9, clock.now() - self.began)


def own_cpu_s() -> float:
    times = psutil.Process(os.getpid()).cpu_times()
    return times.user + times.system


def waited_for_cpu_s() -> float | None:
    """Seconds in which some process waited for a core, since the machine started. Linux's PSI."""
    try:
        some = PRESSURE.read_text().splitlines()[0]
    except OSError:
        return None
    return int(some.rpartition("total=")[2]) / 1e6


def examine(records: Sequence[Record], shortest_limit_s: float, cpu: float, pressure: float | None) -> Health:
    """Judge the generator.

    Args:
        shortest_limit_s: of the promises that are checked. cpu: cores of its busiest process.
    """
    lags = [record.lag for record in records if record.lag is not None]
    lag, allowed = quantile(lags, 0.99) if lags else 0.0, max(LAG_S, LAG_SHARE * shortest_limit_s)
    unsent = sum(record.sent is None for record in records)
    faults = []
    if lag > allowed:
        faults.append(
            f"one of 100 requests left {lag * 1000:.0f} ms late or more, and {allowed * 1000:.0f} are allowed"
        )
    if cpu > CPU:
        faults.append(f"it used {cpu:.2f} cores in one process, and {CPU} are allowed: use more processes")
    if unsent:
        faults.append(f"{unsent} requests were due and never sent")
    return Health(lag, allowed, cpu, pressure, unsent, "; ".join(faults))
