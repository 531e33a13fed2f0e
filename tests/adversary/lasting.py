"""What of a cluster is to be the same after whatever clients do: its processes, and their memory."""

import contextlib

import psutil
from local_cluster import applications

from medley.local import cluster as local
from medley.look.live import replicas_of


def lasting() -> dict[psutil.Process, str]:
    """Processes of the cluster that nothing ends but a fault, and their titles."""
    found = {}
    for process in local.processes():
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())[:100]
            if not title.startswith("ray::IDLE"):
                found[process] = title
    return found


def memory_gib(replicas: dict[str, list[int]]) -> float:
    """Memory of the cluster's processes but for replicas that were started later."""
    known = {pid for pids in replicas.values() for pid in pids}
    later: set[psutil.Process] = set()
    for app in applications().values():
        for replica in replicas_of(app):
            if replica.get("pid") and replica["pid"] not in known:
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(replica["pid"])
                    later |= {process, *process.children(recursive=True)}
    return local.pss_gib([process for process in local.processes() if process not in later])
