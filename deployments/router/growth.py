"""How many replicas a model has and could have, what is asked of them, and whether more are coming.

Pure computation, on what Serve, Ray and the replicas tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.board import LOAD

# Serve tells of a replica's process when that answers. Until a start took so long, nobody is told that it has no place.
NO_PLACE_S = 5.0
# A replica without a process for so long has no place, whatever Ray's nodes seem to have free.
SURELY_NO_PLACE_S = 30.0
# What a replica said longer ago says nothing of now.
FRESH_S = 10.0

Resources = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of a model.

    Attributes:
        asked: work-seconds a second that were newly asked: how many fully used replicas that takes.
        inside_s: work-seconds of the requests inside replicas, those that wait there among them.
        pending_s: work-seconds of refused requests that are expected to come back.
    """

    asked: float = 0.0
    inside_s: float = 0.0
    pending_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Scale:
    """
    Attributes:
        wanted: how many replicas Serve wants now.
        most: how many it may want; None if that is not known.
        starting: those that start and, as far as is known, have a place.
        unplaced: those that no node has room for.
        ready_in_s: seconds until the first of the starting ones is probably ready. If none starts, how long a start
            usually takes.
        demand: None if no replica has told it lately.
    """

    wanted: int = 0
    most: int | None = None
    starting: int = 0
    unplaced: int = 0
    ready_in_s: float = 30.0
    demand: Demand | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """Whether a model will soon serve more than now.

    Attributes:
        growing: more replicas are wanted and on their way.
        ready_in_s: seconds until the first of them is probably ready; None if none is on its way.
        at_most: as many replicas as there may be take requests.
        no_room: more replicas are wanted, and no node has room for one of them.
    """

    growing: bool = False
    ready_in_s: float | None = None
    at_most: bool = False
    no_room: bool = False


def growth(replicas: int, scale: Scale) -> Growth:
    """
    Args:
        replicas: how many take requests now.
    """
    missing = max(0, scale.wanted - replicas)  # in an upgrade, those that start take the place of others
    unplaced = min(missing, scale.unplaced)
    growing = missing > unplaced
    return Growth(
        growing=growing,
        ready_in_s=scale.ready_in_s if growing else None,
        at_most=scale.most is not None and replicas >= scale.most,
        no_room=unplaced > 0,
    )


def growth_document(replicas: int, scale: Scale) -> dict[str, Any]:
    """The form in /readyz: what is known, and what is true of the growth."""
    found = growth(replicas, scale)
    document: dict[str, Any] = {"wanted": scale.wanted, "most": scale.most}
    if scale.demand is not None:
        document["demand"] = round(scale.demand.asked, 2)
    if found.ready_in_s is not None:
        document |= {"growing": True, "ready_in_s": round(found.ready_in_s, 1)}
    if found.at_most:
        document["at_most"] = True
    if found.no_room:
        document["no_room"] = True
    return document


def demand_of(name: str, replicas: Iterable[Mapping[str, Any]], facts: Mapping[str, Any], now: float) -> Demand | None:
    """What replicas said in the last FRESH_S seconds. What is pending is told to each of them, so it is no sum."""
    told = [facts.get(LOAD.format(app=name, replica=replica["replica_id"])) for replica in replicas]
    fresh = [fact for fact in told if fact and now - fact["at"] <= FRESH_S]
    if not fresh:
        return None
    return Demand(
        sum(fact["asked"] for fact in fresh),
        sum(fact["inside_s"] for fact in fresh),
        max(fact["pending_s"] for fact in fresh),
    )


def highest(deployment: Mapping[str, Any]) -> int | None:
    """How many replicas there may be."""
    config = deployment.get("deployment_config") or {}
    scaling = config.get("autoscaling_config")
    return scaling.get("max_replicas") if scaling else config.get("num_replicas")


def unplaced(
    replicas: Iterable[Mapping[str, Any]],
    deployment: Mapping[str, Any],
    free: Mapping[str, Resources] | None,
    now: float,
) -> int:
    """How many replicas that start have no place.

    Args:
        free: see `free_by_node`; None if that is not known.
    """
    waited = [now - one["start_time_s"] for one in replicas if one["state"] == "STARTING" and not one.get("pid")]
    full = free is not None and not has_room(_needs(deployment), free)
    return sum(seconds >= (NO_PLACE_S if full else SURELY_NO_PLACE_S) for seconds in waited)


def free_by_node(applications: Mapping[str, Any], nodes: Mapping[str, Resources]) -> dict[str, dict[str, float]]:
    """What the nodes have, less what the replicas hold that Serve knows a place of.

    Ray's own count is not taken: from it is gone, too, what a replica holds whose process has just been started. Such a
    one would seem to wait for the room that it has.
    """
    free = {node: dict(has) for node, has in nodes.items()}
    for application in applications.values():
        for deployment in application.get("deployments", {}).values():
            held = _needs(deployment)
            for replica in deployment.get("replicas", []):
                if (node := free.get(replica.get("node_id") or "")) is not None:
                    for bundle in held:
                        for name, amount in bundle.items():
                            node[name] = node.get(name, 0.0) - amount
    return free


def has_room(bundles: list[Resources], free: Mapping[str, Resources]) -> bool:
    """Whether each bundle finds a node, the largest first."""
    left = [dict(node) for node in free.values()]
    for bundle in sorted(bundles, key=lambda one: sorted(one.values()), reverse=True):
        fitting = (node for node in left if all(node.get(name, 0) + 1e-6 >= need for name, need in bundle.items()))
        node = next(fitting, None)
        if node is None:
            return False
        for name, need in bundle.items():
            node[name] = node.get(name, 0.0) - need
    return True


def _needs(deployment: Mapping[str, Any]) -> list[Resources]:
    """What one replica reserves: a bundle, or those of its placement group."""
    config = deployment.get("deployment_config") or {}
    bundles = config.get("placement_group_bundles") or [deployment.get("required_resources") or {}]
    return [{name: amount for name, amount in bundle.items() if amount} for bundle in bundles]
