"""What KubeRay refuses or silently changes although its CRD's schema allows it.

Source: KubeRay 1.7, ray-operator/controllers/ray/utils/validation.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from medley.k8s.findings import Finding, Findings
from medley.k8s.overlays import Object, groups_of, name_of

LONGEST_NAME = 47
INCREMENTAL = "NewClusterWithIncrementalUpgrade"
NUMBERS = ("num-cpus", "num-gpus", "memory", "resources")
V2_ONLY = ("idleTimeoutSeconds", "priority")
REDIS_VARIABLES = ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD")


def operator_problems(service: Object) -> Findings:
    """
    Args:
        service: a RayService.
    """
    spec = service["spec"]
    cluster = spec["rayClusterConfig"]
    for rule in (_name, _upgrade, _authentication, _fault_tolerance, _groups, _autoscaler):
        yield from (Finding(name_of(service), where, what) for where, what in rule(service, spec, cluster))


Found = Iterator[tuple[str, str]]


def _name(service: Object, spec: Object, cluster: Object) -> Found:
    name = service["metadata"]["name"]
    if len(name) > LONGEST_NAME or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield "metadata.name", f"{name!r} is not a DNS label of at most {LONGEST_NAME} characters."
    if (cluster["headGroupSpec"].get("headService") or {}).get("metadata", {}).get("name"):
        yield "spec.rayClusterConfig.headGroupSpec.headService", "its name must be left to KubeRay."


def _upgrade(service: Object, spec: Object, cluster: Object) -> Found:
    strategy = spec.get("upgradeStrategy") or {}
    options = strategy.get("clusterUpgradeOptions") or {}
    where = "spec.upgradeStrategy"
    if strategy.get("type") not in (None, "None", "NewCluster", INCREMENTAL):
        yield where, f"{strategy.get('type')!r} is not None, NewCluster or {INCREMENTAL}."
    if strategy.get("type") != INCREMENTAL:
        if options:
            yield where, f"clusterUpgradeOptions belong to {INCREMENTAL}."
        return
    if not cluster.get("enableInTreeAutoscaling"):
        yield where, "needs enableInTreeAutoscaling."
    step, surge = options.get("stepSizePercent", 0), options.get("maxSurgePercent", 100)
    if not options.get("gatewayClassName"):
        yield where, "needs a gatewayClassName."
    if not 0 < step <= surge <= 100:
        yield where, f"stepSizePercent {step} must be above 0 and not above maxSurgePercent {surge}."
    if not options.get("intervalSeconds", 0) > 0:
        yield where, "intervalSeconds must be above 0."


def _authentication(service: Object, spec: Object, cluster: Object) -> Found:
    options, where = cluster.get("authOptions") or {}, "spec.rayClusterConfig.authOptions"
    if options.get("mode") != "token":
        yield where, "is not mode: token: anyone who reaches the dashboard's port can run any code."
    if options.get("enableK8sTokenAuth"):
        yield where, "enableK8sTokenAuth is refused in a RayService."
    if not cluster.get("rayVersion"):
        yield "spec.rayClusterConfig.rayVersion", "is missing, and token authentication is refused without it."


def _fault_tolerance(service: Object, spec: Object, cluster: Object) -> Found:
    options = cluster.get("gcsFaultToleranceOptions")
    annotation = (service["metadata"].get("annotations") or {}).get("ray.io/ft-enabled")
    if not options:
        return
    where = "spec.rayClusterConfig.gcsFaultToleranceOptions"
    if annotation is not None:
        yield where, "and the annotation ray.io/ft-enabled exclude each other."
    if options.get("backend", "redis") == "redis" and not options.get("redisAddress"):
        yield where, "has no redisAddress."
    if "redis-password" in (cluster["headGroupSpec"].get("rayStartParams") or {}):
        yield where, "and rayStartParams redis-password exclude each other."
    for container in cluster["headGroupSpec"]["template"]["spec"]["containers"]:
        for variable in container.get("env") or []:
            if variable["name"] in REDIS_VARIABLES:
                yield where, f"and the variable {variable['name']} exclude each other."


def _groups(service: Object, spec: Object, cluster: Object) -> Found:
    names = [one["groupName"] for one in cluster.get("workerGroupSpecs") or []]
    if len(names) != len(set(names)):
        yield "spec.rayClusterConfig.workerGroupSpecs", "two groups have one name."
    for place, group in groups_of(service):
        where, start = f"spec.rayClusterConfig.{place}", group.get("rayStartParams") or {}
        if group.get("resources") and (both := [key for key in NUMBERS if key in start]):
            yield where, f"resources and rayStartParams {', '.join(both)} exclude each other."
        if "labels" in start:
            yield where, "rayStartParams labels are refused. Write them under the group's own labels."
        if strange := [f"{key}={value!r}" for key, value in start.items() if not isinstance(value, str)]:
            yield where, f"rayStartParams are strings; quote {', '.join(strange)}."
        low, high = group.get("minReplicas", 0), group.get("maxReplicas", 0)
        if not low <= group.get("replicas", low) <= high:
            yield where, f"replicas are not between minReplicas {low} and maxReplicas {high}."


def _autoscaler(service: Object, spec: Object, cluster: Object) -> Found:
    version = (cluster.get("autoscalerOptions") or {}).get("version", "v2")
    head = cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster.get("workerGroupSpecs") or []:
        where = f"spec.rayClusterConfig.workerGroupSpecs.{group['groupName']}"
        if version != "v2" and (late := [key for key in V2_ONLY if key in group]):
            yield where, f"{', '.join(late)} needs autoscaler version v2."
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield where, "restartPolicy must be Never, or left out, with autoscaler version v2."
        if group["minReplicas"] != group["maxReplicas"] and not cluster.get("enableInTreeAutoscaling"):
            yield where, "minReplicas differs from maxReplicas, and nothing scales: set enableInTreeAutoscaling."
    if head.get("restartPolicy", "Never") != "Never":
        yield "spec.rayClusterConfig.headGroupSpec", "restartPolicy must be Never, or left out."
    if any(each["name"] == "RAY_enable_autoscaler_v2" for one in head["containers"] for each in one.get("env") or []):
        yield (
            "spec.rayClusterConfig.headGroupSpec",
            "RAY_enable_autoscaler_v2 is set by KubeRay from autoscalerOptions.",
        )
