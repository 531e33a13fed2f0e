"""What would stop the cluster from starting, found before it starts."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys

import psutil

from medley.checks.config import ClusterConfig
from medley.local.home import auth_token_file, launcher
from models.secret_file import SecretUnsafe
from models.specs import Backend

HEAD_PORT = 6379
DASHBOARD_PORT = 8265
# vLLM for CPUs is linked to it. It is not in the wheel, and small systems lack it.
LIBNUMA = "libnuma.so.1"


def problems(config: ClusterConfig, cpus: int | None = None) -> list[str]:
    """One sentence each, with the remedy. Empty when the cluster can start.

    Args:
        cpus: CPUs that Ray may use; None is all of this machine's.
    """
    found = _cpus(config, cpus or psutil.cpu_count() or 1)
    checks = (_python, _launcher, _libraries, _memory, _ports, _gpus, _token)
    return found + [problem for check in checks for problem in check(config)]


def _python(config: ClusterConfig) -> list[str]:
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return []
    version = sys.version.split()[0]
    return [f"This is Python {version}; the locked packages are for 3.11, 3.12 and 3.13. Run `make clean serve`."]


def _launcher(config: ClusterConfig) -> list[str]:
    if os.access(launcher(), os.X_OK):
        return []
    return [f"{launcher().name}, which starts HAProxy, is not installed beside this Python. Run `make setup`."]


def _libraries(config: ClusterConfig) -> list[str]:
    wanting = [m.app for m in config.models if m.variant.backend is Backend.VLLM and not m.variant.needs.gpus]
    if not wanting:
        return []
    try:
        ctypes.CDLL(LIBNUMA)
    except OSError:
        what = "Install it: apt-get install libnuma1 (Fedora: dnf install numactl-libs)"
        return [f"{', '.join(wanting)}: vLLM needs libnuma, which was not found. {what}."]
    return []


def _memory(config: ClusterConfig) -> list[str]:
    free = psutil.virtual_memory().available / (1 << 30)
    if free >= config.memory_gib:
        return []
    return [
        f"{config.memory_gib:.1f} GiB of memory are needed and {free:.1f} GiB are free. Close something, or take a "
        f"model out of {config.path.name}."
    ]


def _cpus(config: ClusterConfig, have: int) -> list[str]:
    need = round(0.2 + sum(model.variant.needs.cpus for model in config.models), 6)
    if need <= have:
        return []
    return [f"{need:g} CPUs are needed and the machine has {have}. Take a model out of {config.path.name}."]


def _gpus(config: ClusterConfig) -> list[str]:
    wanting = [model.app for model in config.models if model.variant.needs.gpus]
    if not wanting:
        return []
    with contextlib.suppress(Exception):
        from ray._private.accelerators import NvidiaGPUAcceleratorManager

        if NvidiaGPUAcceleratorManager.get_current_node_num_accelerators():
            return []
    return [
        f"{', '.join(wanting)} need a GPU and none was found. Use serve_config.yaml, or a machine with an NVIDIA GPU."
    ]


def _ports(config: ClusterConfig) -> list[str]:
    ports = {
        config.port: f"http_options.port in {config.path.name}",
        HEAD_PORT: "Ray's head (another Ray cluster? `ray stop`)",
        DASHBOARD_PORT: "Ray's dashboard (another Ray cluster? `ray stop`)",
    }
    return [
        f"Port {port} is in use{_user_of(port)}; it is for {what}. Stop that program or choose another port."
        for port, what in ports.items()
        if _in_use(port)
    ]


def _token(config: ClusterConfig) -> list[str]:
    try:
        auth_token_file()
    except SecretUnsafe as error:
        return [str(error)]
    return []


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _user_of(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
                and connection.pid
            ):
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""
