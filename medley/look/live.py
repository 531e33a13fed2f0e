"""What the cluster does now, read once from every source.

The router knows what clients get, Serve what it was told to run, Ray what the machines have. Each may be down: then the
others are still shown, and the gap is named.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from medley.change.surge import UNITS, USAGE
from medley.checks.config import ClusterConfig
from medley.local.cluster import dashboard
from medley.local.preflight import DASHBOARD_PORT

GIB = 1 << 30
PATIENCE_S = 10
ROUTER_PORTS = range(30000, 31000)
TAKES_REQUESTS = ("ready", "scaled_to_zero")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPUs, GPUs or GiB of memory, by Ray's count: what is reserved, not what is busy."""

    used: float
    total: float

    @property
    def free(self) -> float:
        return self.total - self.used


@dataclass(frozen=True, slots=True)
class Node:
    """A machine. `memory` is what all processes on it use, in GiB; `cpu_percent` how busy its cores are."""

    name: str
    alive: bool
    cpus: float
    gpus: float
    memory: Usage
    cpu_percent: float


@dataclass(frozen=True, slots=True)
class Live:
    """
    Attributes:
        edge: where clients find the router.
        serve: Serve's answer; None when it did not answer.
        models: the router's answer to /readyz, by model; None when it did not answer.
        usage: by "CPU", "GPU" and "memory" (GiB), of the whole cluster; empty when Ray did not say.
        gaps: which source did not answer and why, a sentence each, by "router", "serve", "ray" and "nodes".
    """

    now: float
    edge: str
    serve: dict[str, Any] | None = None
    models: dict[str, dict[str, Any]] | None = None
    usage: dict[str, Usage] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    gaps: dict[str, str] = field(default_factory=dict)

    @property
    def reachable(self) -> bool:
        return self.serve is not None or self.models is not None

    @property
    def applications(self) -> dict[str, dict[str, Any]]:
        return (self.serve or {}).get("applications", {})

    def pids(self, app: str) -> list[int]:
        return [one["pid"] for one in replicas_of(self.applications.get(app, {})) if one.get("pid")]


def look_here() -> Live:
    """The live state of the cluster of this machine."""
    with dashboard() as serve, httpx.Client(trust_env=False) as edge:
        return look(serve, edge)


def past_the_edge(live: Live, client: httpx.Client) -> Live:
    """What routers on this machine say on ports of their own, where HAProxy does not answer."""
    for pid in live.pids("router"):
        for address in listening(pid):
            ready = _asked(client, f"{address}/readyz", "router", {})
            if ready is not None:
                said = f"HAProxy ({live.edge}) does not answer clients. The router does, at {address}/readyz."
                return replace(live, models=ready.get("models", {}), gaps={**live.gaps, "router": said})
    return live


def listening(pid: int) -> list[str]:
    """Where a router listens for HAProxy: see RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT."""
    with contextlib.suppress(psutil.Error):
        listens = [one.laddr for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        return [f"http://{host}:{port}" for host, port in listens if port in ROUTER_PORTS]
    return []


def look(dashboard: httpx.Client, edge: httpx.Client) -> Live:
    """Ask every source once. Never raises when one does not answer.

    Args:
        dashboard: of Ray's dashboard, with its token.
        edge: any client; it is given whole addresses.
    """
    gaps: dict[str, str] = {}
    serve = _asked(dashboard, "/api/serve/applications/", "serve", gaps)
    address = edge_address(serve)
    ready = _asked(edge, f"{address}/readyz", "router", gaps)
    status = _asked(dashboard, "/api/cluster_status?format=1", "ray", gaps)
    nodes = _asked(dashboard, "/nodes?view=summary", "nodes", gaps)
    live = Live(
        now=time.time(),
        edge=address,
        serve=serve,
        models=None if ready is None else ready.get("models", {}),
        usage=usage_of(_deep(status, "data", "clusterStatus") or ""),
        nodes=tuple(_node(one) for one in _deep(nodes, "data", "summary") or ()),
        gaps=gaps,
    )
    return live if live.models is not None else past_the_edge(live, edge)


def edge_address(serve: dict[str, Any] | None) -> str:
    """Where a client on this machine finds the router, by what Serve was started with."""
    options = (serve or {}).get("http_options") or {}
    return ClusterConfig(Path(), {"http_options": options}, []).address


def usage_of(cluster_status: str) -> dict[str, Usage]:
    """CPUs, GPUs and GiB of memory of Ray's text. What a placement group reserves counts as used."""
    found = {}
    for used, used_unit, total, total_unit, name, in_use, use_unit, reserved, reserve_unit in USAGE.findall(
        cluster_status
    ):
        taken = float(used) * UNITS[used_unit]
        if reserved:
            taken += float(reserved) * UNITS[reserve_unit] - float(in_use) * UNITS[use_unit]
        scale = GIB if name == "memory" else 1
        found[name] = Usage(taken / scale, float(total) * UNITS[total_unit] / scale)
    return found


def replicas_of(application: dict[str, Any]) -> list[dict[str, Any]]:
    """Every replica of an application, in whatever state."""
    return [
        one for deployment in application.get("deployments", {}).values() for one in deployment.get("replicas") or []
    ]


def _asked(client: httpx.Client, path: str, who: str, gaps: dict[str, str]) -> dict[str, Any] | None:
    """The JSON object at a path, whatever its status if it is one: /readyz says 503 while a model loads."""
    names = {
        "router": f"The router ({path.removesuffix('/readyz')})",
        "serve": f"Ray's dashboard (port {DASHBOARD_PORT})",
        "ray": "Ray's count of resources",
        "nodes": "Ray's list of nodes",
    }
    try:
        answer = client.get(path, timeout=PATIENCE_S)
        document = answer.json() if answer.is_success or who == "router" else None
        if isinstance(document, dict) and (who != "router" or "models" in document):
            return document
        gaps[who] = f"{names[who]} answers {answer.status_code}."
        if answer.status_code in (401, 403):
            gaps[who] += " Set MEDLEY_HOME to what the cluster was started with: its token is there."
    except (httpx.HTTPError, ValueError) as error:
        gaps[who] = f"{names[who]} does not answer ({type(error).__name__})."
    return None


def _deep(document: dict[str, Any] | None, *keys: str) -> Any:
    value: Any = document
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _node(summary: dict[str, Any]) -> Node:
    raylet = summary.get("raylet") or {}
    resources = raylet.get("resourcesTotal") or {}
    total, available = (summary.get("mem") or [0, 0])[:2]
    return Node(
        name=summary.get("ip") or raylet.get("nodeName") or "?",
        alive=raylet.get("state") == "ALIVE",
        cpus=resources.get("CPU", 0),
        gpus=resources.get("GPU", 0),
        memory=Usage((total - available) / GIB, total / GIB),
        cpu_percent=summary.get("cpu") or 0,
    )
