"""Whether the new version of an application fits beside the old one.

With `max_surge_percent` above 0 Serve starts new replicas first and the old ones serve until then; with 0, Serve's
default, an old replica stops before its successor starts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import httpx

from medley.change.differences import Kind, compare, written_alike
from medley.checks.config import ClusterConfig

SURGE = "max_surge_percent"
GIB = 1 << 30
UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": GIB, "Ti": 1 << 40}
# " 1.45/2.0 CPU (1.0 used of 1.0 reserved in placement groups)", " 4.89GiB/22.62GiB memory"
AMOUNT = r"([\d.]+)([KMGT]i)?B?"
USAGE = re.compile(
    rf"^ *{AMOUNT}/{AMOUNT} (CPU|GPU|memory)\b(?: \({AMOUNT} used of {AMOUNT} reserved)?",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Resources:
    """What Ray places replicas by."""

    cpus: float = 0
    gpus: float = 0
    memory_gib: float = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.cpus + other.cpus, self.gpus + other.gpus, self.memory_gib + other.memory_gib)

    def __sub__(self, other: Resources) -> Resources:
        return Resources(self.cpus - other.cpus, self.gpus - other.gpus, self.memory_gib - other.memory_gib)

    def holds(self, other: Resources) -> bool:
        rest = self - other
        return min(rest.cpus, rest.gpus, rest.memory_gib) > -1e-6

    def __str__(self) -> str:
        gpus = f"{max(self.gpus, 0):.3g} GPU, " if self.gpus > 0 else ""
        return f"{max(self.cpus, 0):.3g} CPU, {gpus}{max(self.memory_gib, 0):.3g} GiB"


@dataclass(frozen=True, slots=True)
class Room:
    """The numbers behind a decision: what one more replica needs, what is free, and `max_surge_percent`.

    Attributes:
        free: what the applications before this one leave; None when Ray did not say.
        stated: the percentage stands in the file, so it was not decided here.
    """

    needed: Resources
    free: Resources | None
    percent: int = 0
    stated: bool = False

    @property
    def fits(self) -> bool:
        return self.free is not None and self.free.holds(self.needed)

    def __str__(self) -> str:
        return f"a replica needs {self.needed}; free: {self.free or 'unknown'}"


def free_resources(dashboard: httpx.Client) -> Resources | None:
    """What is free in the whole cluster by Ray's count; None when Ray does not say."""
    try:
        answer = dashboard.get("/api/cluster_status", params={"format": 1})
        text = answer.raise_for_status().json()["data"]["clusterStatus"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
    return parse_cluster_status(text)


def parse_cluster_status(text: str) -> Resources | None:
    """Free CPUs, GPUs and memory of Ray's cluster status text; None when it names no CPUs."""
    free: dict[str, float] = {}
    for used, used_unit, total, total_unit, name, in_use, use_unit, reserved, reserve_unit in USAGE.findall(text):
        amount = float(total) * UNITS[total_unit] - float(used) * UNITS[used_unit]
        if reserved:  # Ray counts a reservation that nobody uses yet as free
            amount -= float(reserved) * UNITS[reserve_unit] - float(in_use) * UNITS[use_unit]
        free[name] = amount
    if "CPU" not in free:
        return None
    return Resources(free["CPU"], free.get("GPU", 0), free.get("memory", 0) / GIB)


def with_surge(
    wanted: ClusterConfig, live: dict[str, Any], free: Resources | None
) -> tuple[dict[str, Any], dict[str, Room]]:
    """The document with `max_surge_percent` decided wherever it does not say it.

    An application that is replaced gets 100 when one more replica of it fits, after those that are new; else nothing,
    which is 0. An application that is not replaced keeps what it has.

    Returns:
        The document to deploy, and for each application that starts replicas the numbers.

    Raises:
        ConfigError: Serve would refuse the document.
    """
    document = written_alike(live, wanted.document)
    applications = live.get("applications", {})
    entries = {entry.get("name"): entry for entry in document["applications"]}
    stated = {name: percent for name, entry in entries.items() if (percent := _stated(entry)) is not None}
    for name in entries.keys() & applications.keys() - stated.keys():
        _keep(entries[name], applications[name])
    kinds = {comparison.app: comparison.kind for comparison in compare(live, document)}
    rooms = {}
    coming = [name for name, kind in kinds.items() if kind is Kind.ADD]
    restarting = [name for name, kind in kinds.items() if kind is Kind.RESTART]
    leaving = [name for name, kind in kinds.items() if kind is Kind.REMOVE]
    for name in coming:
        if (needed := _needs(name, wanted, applications)) is None:
            continue
        # Replicas that are removed free their resources a moment later.
        rooms[name] = Room(needed, free and sum((_held(applications[one]) for one in leaving), free))
        free = free and free - needed
    for name in restarting:
        needed = _needs(name, wanted, applications) or Resources()
        room = Room(needed, free)
        if name in stated:
            rooms[name] = Room(needed, free, stated[name], stated=True)
        else:
            rooms[name] = Room(needed, free, 100 if room.fits else 0)
            _set(entries[name], applications[name], rooms[name].percent)
        if free and room.fits and rooms[name].percent:
            free -= needed
    return document, rooms


def replicas_wanted(application: dict[str, Any]) -> int:
    """How many replicas Serve wants of a live application."""
    return sum(one.get("target_num_replicas", 0) for one in application.get("deployments", {}).values())


def _stated(entry: dict[str, Any]) -> int | None:
    return next((one[SURGE] for one in entry.get("deployments") or [] if SURGE in one), None)


def _keep(entry: dict[str, Any], application: dict[str, Any]) -> None:
    """Keep what an earlier deploy decided, or every later plan would show it as a change."""
    deployed = (application.get("deployed_app_config") or {}).get("deployments", [])
    for percent in (one[SURGE] for one in deployed if SURGE in one):
        _set(entry, application, percent)


def _set(entry: dict[str, Any], application: dict[str, Any], percent: int) -> None:
    stated = {one["name"]: one for one in entry.get("deployments") or []}
    for name in application.get("deployments") or stated:
        if percent:
            stated.setdefault(name, {"name": name})[SURGE] = percent
        else:
            stated.get(name, {}).pop(SURGE, None)
    entry["deployments"] = list(stated.values())


def _needs(name: str, wanted: ClusterConfig, applications: dict[str, Any]) -> Resources | None:
    """What one replica of an application takes: the catalog says it of models, Serve of a router that runs."""
    for model in wanted.models:
        if model.app == name:
            needs = model.variant.needs
            return Resources(needs.cpus, needs.gpus, needs.memory_gib)
    if name not in applications:
        return None
    deployments = applications[name].get("deployments", {}).values()
    return sum((_resources(one.get("required_resources") or {}) for one in deployments), Resources())


def _held(application: dict[str, Any]) -> Resources:
    """What the replicas of a live application hold."""
    held = Resources()
    for deployment in application.get("deployments", {}).values():
        for _ in deployment.get("replicas", []):
            held += _resources(deployment.get("required_resources") or {})
    return held


def _resources(required: dict[str, float]) -> Resources:
    return Resources(required.get("CPU", 0), required.get("GPU", 0), required.get("memory", 0) / GIB)
