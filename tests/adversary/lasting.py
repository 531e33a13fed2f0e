"""What of a cluster is to be the same after whatever clients do: its processes, and their memory."""

import contextlib
from collections import Counter

import psutil
from kinds import ASLEEP
from local_cluster import applications

from medley.local import cluster as local
from medley.look.live import replicas_of


def lasting() -> dict[psutil.Process, str]:
    """Processes of the cluster that nothing ends but a fault, and their titles. Replicas of models that may sleep end
    when nobody asks for them."""
    found = {}
    for process in local.processes():
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline()).strip()[:100]
            if not title.startswith(("ray::IDLE", *(f"ray::ServeReplica:{name}:" for name in ASLEEP.values()))):
                found[process] = title
    return found


def memory_gib(replicas: dict[str, list[int]]) -> dict[str, float]:
    """Memory of the cluster's processes by their titles, but for replicas that were started later."""
    known = {pid for pids in replicas.values() for pid in pids}
    later: set[psutil.Process] = set()
    for app in applications().values():
        for replica in replicas_of(app):
            if replica.get("pid") and replica["pid"] not in known:
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(replica["pid"])
                    later |= {process, *process.children(recursive=True)}
    found: Counter[str] = Counter()
    for process in local.processes():
        if process not in later:
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline()) or process.name()
                found[title[:60]] += local.pss_gib([process])  # type: ignore[assignment]
    return dict(found)
