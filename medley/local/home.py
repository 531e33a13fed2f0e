"""Where Medley keeps things on this machine, and the environment its cluster runs in."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from models.catalog import VARIABLE as CATALOG_VARIABLE
from models.catalog import own_folder
from models.weights import home

# Every process of the cluster inherits this, which is how `medley down` finds them all and nothing else.
CLUSTER_VARIABLE = "MEDLEY_CLUSTER"


def auth_token_file() -> Path:
    """The file with the token that Ray's own interfaces ask for. Made on first use, readable by its owner only."""
    file = home() / "auth_token"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))
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
    spin and take the core from another model (benchmarks/sharing.py). A value that is set already is kept.
    """
    added = own_folder()
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
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
    }
