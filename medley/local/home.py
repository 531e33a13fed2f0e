"""Where Medley keeps things on this machine, and the environment its cluster runs in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from medley.local.run_folder import control_plane_folder, edge_folder
from models.catalog import VARIABLE as CATALOG_VARIABLE
from models.catalog import own_folder
from models.secret_file import SecretUnsafe, secret_of_file
from models.weights import home

# Every process of the cluster inherits this, which is how `medley down` finds them all and nothing else.
CLUSTER_VARIABLE = "MEDLEY_CLUSTER"


def make_home() -> Path:
    """MEDLEY_HOME, which is its owner's alone if it is made now: there are a token and documents with environments."""
    home().mkdir(mode=0o700, parents=True, exist_ok=True)
    return home()


def auth_token_file() -> Path:
    """The file with the token that Ray's own interfaces ask for. Made on first use, readable by its owner only.

    Raises:
        SecretUnsafe: others may know the token, or it is none. It is not replaced here: a cluster may run with it.
    """
    file = home() / "auth_token"
    try:
        secret_of_file(file)
    except SecretUnsafe as error:
        there = os.path.lexists(file)
        when = " If a cluster runs, `medley down` first and `medley up` afterwards." if there else ""
        raise SecretUnsafe(f"{error}{when}") from None
    return file


def client_environment(dashboard_port: int) -> dict[str, str]:
    """What Ray's own command line needs to talk to the cluster."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(auth_token_file()),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard_port}",
        "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard_port}",
    }


def cluster_environment() -> dict[str, str]:
    """The environment of every process of the cluster.

    Models share this machine's cores. OpenMP's threads (torch's, vLLM's) should sleep while they wait: by default they
    spin and take the core from another model (benchmarks/sharing.py). Nor should the router, which Ray's default gives
    the lowest priority of all, wait for those that compute (deployments/servers/threads.py). Values that are set
    already are kept.
    """
    added = own_folder()
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        "RAY_worker_niceness": "0",
        **os.environ,
        CLUSTER_VARIABLE: str(home()),
        "MEDLEY_HOME": str(home()),
        # Absolute: Ray's processes run in folders of their own.
        **({CATALOG_VARIABLE: str(added)} if added else {}),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(auth_token_file()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        **loopback(),
        **edge(),
        # So that the control plane can be started again under a running cluster; see guard.py.
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(control_plane_folder()),
    }


def loopback() -> dict[str, str]:
    """Has Ray listen on 127.0.0.1 only. Despite the name: on any system, Ray replaces a node's loopback address by one
    that other machines can reach, unless this is off."""
    return {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def launcher() -> Path:
    """The program that Serve starts as HAProxy; see deployments/haproxy.py."""
    return Path(sys.executable).parent / "medley-edge"


def edge() -> dict[str, str]:
    """Has Serve start HAProxy through our launcher, and keep its files where nobody else can reach them."""
    folder = edge_folder()
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }
