"""Start, watch and stop a local cluster."""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import httpx
import psutil

from medley.local.errors import ClusterError
from medley.local.home import CLUSTER_VARIABLE, auth_token_file, cluster_environment, home
from medley.local.preflight import DASHBOARD_PORT, HEAD_PORT
from medley.local.run_folder import control_plane_folder, ray_folder

# How long to wait after SIGTERM before SIGKILL. Ray's processes wait for each other and have nothing to save.
TERMINATE_PATIENCE_S, KILL_PATIENCE_S = 5, 20

# The process that starts Ray's processes again; see guard.py.
GUARD = "medley.guard"


def processes() -> list[psutil.Process]:
    """Every living process of this cluster: those with its mark in their environment, and their children. Ray's agents
    overwrite their environment with a title, so the mark alone does not find them."""
    marked = {process for process in psutil.process_iter() if _is_marked(process)}
    mine = set(marked)
    for process in marked:
        with contextlib.suppress(psutil.Error):
            if process.parent() not in marked:
                mine.update(process.children(recursive=True))
    return [process for process in mine if lives(process)]


def _is_marked(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.environ().get(CLUSTER_VARIABLE) == str(home())
    return False


def lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def start_ray(cpus: int | None) -> None:
    """Start Ray's head on this machine, on loopback, asking for a token.

    Args:
        cpus: CPUs that Ray may use; None is all of this machine's.

    Raises:
        ClusterError: with the end of Ray's own output.
    """
    command = [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--head",
        "--node-ip-address=127.0.0.1",
        f"--port={HEAD_PORT}",
        "--include-dashboard=true",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={DASHBOARD_PORT}",
        "--disable-usage-stats",
        # It copies every worker's output to drivers, and there are none here.
        "--include-log-monitor=false",
        f"--temp-dir={ray_folder()}",
        f"--object-store-memory={256 << 20}",
    ]
    if cpus is not None:
        command.append(f"--num-cpus={cpus}")
    shutil.rmtree(control_plane_folder(), ignore_errors=True)  # of the cluster before
    # A session of its own: the cluster must outlive the terminal it was started from.
    done = subprocess.run(
        command, env=cluster_environment(), capture_output=True, text=True, check=False, start_new_session=True
    )
    if done.returncode != 0:
        raise ClusterError(f"Ray did not start:\n{(done.stdout + done.stderr)[-2000:]}")


def dashboard() -> httpx.Client:
    """A client of the REST interface that `serve deploy` uses as well."""
    headers = {"Authorization": f"Bearer {auth_token_file().read_text().strip()}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{DASHBOARD_PORT}", headers=headers, timeout=30, trust_env=False)


def open_to_others() -> dict[int, str]:
    """Ports on which processes of the cluster listen for other machines, and the names of the processes."""
    found = {}
    for process in processes():
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and not is_loopback(connection.laddr.ip):
                    found[connection.laddr.port] = process.name()
    return found


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def logs() -> Path:
    """Where Serve's logs of the current cluster lie."""
    return ray_folder() / "session_latest" / "logs" / "serve"


def stop() -> int:
    """End every process of the cluster: first SIGTERM, then SIGKILL. Returns how many there were."""
    found = processes()
    # First the one that would start the others again.
    end([process for process in found if is_guard(process)], psutil.Process.kill, KILL_PATIENCE_S)
    end(found, psutil.Process.terminate, TERMINATE_PATIENCE_S)
    # Some were started meanwhile; others are known only by a parent that has ended.
    remaining = {*found, *processes()}
    end(remaining, psutil.Process.kill, KILL_PATIENCE_S)
    left = {process for process in (*remaining, *processes()) if lives(process)}
    if left:
        raise ClusterError(f"These processes did not end: {', '.join(str(process.pid) for process in left)}.")
    return len(found)


def is_guard(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return GUARD in process.cmdline()[:3]
    return False


def end(victims: Collection[psutil.Process], how: Any, patience_s: float) -> None:
    """Signal processes and wait for them to end. Zombies count as ended: in a container, nobody may reap them."""
    for process in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            how(process)
    deadline = time.monotonic() + patience_s
    while any(lives(process) for process in victims) and time.monotonic() < deadline:
        time.sleep(0.1)


def memory_gib() -> float:
    """Memory of all processes of the cluster."""
    return pss_gib(processes())


def pss_gib(members: list[psutil.Process]) -> float:
    """Memory of these processes; pages they share are counted once (PSS)."""
    total = 0
    for process in members:
        with contextlib.suppress(psutil.Error, OSError):
            total += process.memory_full_info().pss
    return total / (1 << 30)
