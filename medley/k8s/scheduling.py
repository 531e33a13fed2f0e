"""Which group's node a replica starts, asked of Ray's own autoscaler: its scheduler, over the groups of a RayService.

Ray's modules are private and pinned with ray; `tests/k8s` runs them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from medley.k8s.findings import Finding, Findings
from medley.k8s.overlays import Object, name_of

# What Ray's modules and the builders raise for groups and arguments that make no sense.
UNREADABLE = (ValueError, KeyError, AssertionError)


@dataclass(frozen=True, slots=True)
class Demand:
    """One replica.

    Attributes:
        bundles: what must be free, each on one node. labels: that the nodes must have.
        least, most: replicas that the serve config asks for.
    """

    application: str
    bundles: tuple[dict[str, float], ...]
    labels: dict[str, str]
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Placement:
    """
    Attributes:
        groups: nodes that one replica starts where nothing runs yet, by group; None if no group can have it.
    """

    demand: Demand
    groups: dict[str, int] | None


def demands_of(serve_config: Object) -> list[Demand]:
    """Of each application, what one replica needs. Raises ValueError: its arguments are wrong."""
    return [demand_of(application) for application in serve_config["applications"]]


def demand_of(application: Object) -> Demand:
    from models.registry import import_string

    built: Any = import_string(application["import_path"])(application.get("args") or {})
    config = built._bound_deployment
    options, replicas = config.ray_actor_options, config._replica_config
    bundles = replicas.placement_group_bundles
    if bundles:
        labels = (replicas.placement_group_bundle_label_selector or [{}])[0]
    else:
        bundles, labels = [resources_of(options)], options.get("label_selector") or {}
    least, most = replicas_of(application)
    return Demand(application["name"], tuple(dict(one) for one in bundles), dict(labels), least, most)


def resources_of(options: Object) -> dict[str, float]:
    named = {"CPU": options.get("num_cpus"), "GPU": options.get("num_gpus"), "memory": options.get("memory")}
    return {name: float(value) for name, value in named.items() if value}


def replicas_of(application: Object) -> tuple[int, int]:
    deployment = (application.get("deployments") or [{}])[0]
    if scaling := deployment.get("autoscaling_config"):
        return scaling.get("min_replicas", 1), scaling.get("max_replicas", 1)
    number = deployment.get("num_replicas", 1)
    return number, number


def placements(service: Object, serve_config: Object) -> list[Placement]:
    """For each application, what one replica would start on an empty cluster."""
    groups = autoscaling_of(service)
    return [Placement(demand, started(groups, [demand])) for demand in demands_of(serve_config)]


def scheduling_problems(service: Object, serve_config: Object) -> Findings:
    try:
        found = placements(service, serve_config)
    except UNREADABLE as error:
        yield Finding(name_of(service), "workerGroupSpecs", f"Ray's autoscaler cannot read them: {error}")
        return
    for one in found:
        if one.groups is None:
            yield Finding(
                name_of(service), f"application {one.demand.application}", f"no group has {words(one.demand)}."
            )
    possible = [one.demand for one in found if one.groups is not None]
    if started(autoscaling_of(service), several(possible, "least")) is None:
        yield Finding(name_of(service), "workerGroupSpecs", "the replicas that must always run do not fit together.")


def several(demands: Iterable[Demand], count: str) -> list[Demand]:
    return [one for one in demands for _ in range(getattr(one, count))]


def autoscaling_of(service: Object) -> Any:
    """What Ray's autoscaler would make of the groups of a RayService. Raises UNREADABLE."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    cluster = {"metadata": service["metadata"], "spec": service["spec"]["rayClusterConfig"]}
    cluster["metadata"] = {"namespace": "default", **cluster["metadata"]}
    return AutoscalingConfig(_derive_autoscaling_config_from_ray_cr(cluster), skip_content_hash=True)


def started(groups: Any, demands: list[Demand]) -> dict[str, int] | None:
    """Nodes by group that Ray's scheduler starts for replicas on a cluster of nothing but its head; None if one of them
    fits nowhere. Groups that have a minimum start that in any case.

    Args:
        groups: as the autoscaler has them.
    """
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import GangResourceRequest  # pyright: ignore[reportAttributeAccessIssue]
    from ray.core.generated.common_pb2 import LabelSelectorOperator  # pyright: ignore[reportAttributeAccessIssue]

    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    single, gangs = [], []
    for demand in demands:
        selector = [(key, LabelSelectorOperator.LABEL_OPERATOR_IN, [value]) for key, value in demand.labels.items()]
        requests = [
            ResourceRequestUtil.make(one, label_selectors=[selector] if selector else None) for one in demand.bundles
        ]
        if len(requests) == 1:
            single += requests
        else:
            gangs.append(GangResourceRequest(requests=requests))
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=groups.get_node_type_configs(),
            max_num_nodes=groups.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(single),
            gang_resource_requests=gangs,
        )
    )
    if reply.infeasible_resource_requests or reply.infeasible_gang_resource_requests:
        return None
    nodes: Counter[str] = Counter()
    for launch in reply.to_launch:
        nodes[launch.instance_type] += launch.count
    return dict(nodes)


def words(demand: Demand) -> str:
    """`4 CPU, 1 GPU, 32 GiB with ray.io/accelerator-type=H100`"""
    bundles = []
    for bundle in demand.bundles:
        parts = [
            f"{value / (1 << 30):g} GiB" if name == "memory" else f"{value:g} {name}" for name, value in bundle.items()
        ]
        bundles.append(", ".join(parts))
    labels = " and ".join(f"{key}={value}" for key, value in demand.labels.items())
    return " + ".join(bundles) + (f" with {labels}" if labels else "")
