"""The pods that an object becomes; of a RayService, with what KubeRay adds to them.

Source: KubeRay 1.7, ray-operator/controllers/ray/common/pod.go.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from medley.k8s.overlays import Object

TEMPLATED = {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"}
Pod = tuple[str, Object]


def pods_of(one: Object) -> Iterator[Pod]:
    """Each with what it is called in findings."""
    name = one["metadata"]["name"]
    if one["kind"] == "RayService":
        cluster = one["spec"]["rayClusterConfig"]
        yield f"RayService {name}, head", head_pod(name, cluster)
        for group in cluster.get("workerGroupSpecs", []):
            yield f"RayService {name}, group {group['groupName']}", worker_pod(name, group)
    elif one["kind"] in TEMPLATED:
        yield f"{one['kind']} {name}", pod(name, one["spec"]["template"], {})
    elif one["kind"] == "CronJob":
        yield f"CronJob {name}", pod(name, one["spec"]["jobTemplate"]["spec"]["template"], {})


def pod(name: str, template: Object, labels: dict[str, str]) -> Object:
    metadata = template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "name": name, "labels": {**(metadata.get("labels") or {}), **labels}},
        "spec": copy.deepcopy(template["spec"]),
    }


def head_pod(name: str, cluster: Object) -> Object:
    group = cluster["headGroupSpec"]
    found = pod(f"{name}-head", group["template"], ray_labels(name, "head", "headgroup"))
    if cluster.get("enableInTreeAutoscaling"):
        found["spec"]["containers"].append(autoscaler(found, cluster.get("autoscalerOptions") or {}))
        found["spec"]["restartPolicy"] = "Never"
    return found


def autoscaler(head: Object, options: Object) -> Object:
    """The sidecar. It takes nothing over from the head's container but the image."""
    limits = {"cpu": "500m", "memory": "512Mi"}
    wanted: dict[str, Any] = {
        "name": "autoscaler",
        "image": options.get("image") or head["spec"]["containers"][0].get("image"),
        "command": ["/bin/bash", "-lc", "--"],
        "args": ["ray kuberay-autoscaler --cluster-name x --cluster-namespace x"],
        "resources": options.get("resources") or {"requests": limits, "limits": limits},
        "volumeMounts": options.get("volumeMounts") or [],
        "env": options.get("env") or [],
    }
    if "securityContext" in options:
        wanted["securityContext"] = options["securityContext"]
    return wanted


def worker_pod(name: str, group: Object) -> Object:
    found = pod(f"{name}-worker", group["template"], ray_labels(name, "worker", group["groupName"]))
    ray = found["spec"]["containers"][0]
    waiting = {
        "name": "wait-gcs-ready",
        "image": ray.get("image"),
        "command": ["/bin/bash", "-lc", "--"],
        "args": ["ray health-check"],
        "env": ray.get("env", []),
        "volumeMounts": ray.get("volumeMounts", []),
        "resources": {"requests": {"cpu": "200m", "memory": "256Mi"}, "limits": {"cpu": "200m", "memory": "256Mi"}},
    }
    if "securityContext" in ray:
        waiting["securityContext"] = ray["securityContext"]
    found["spec"].setdefault("initContainers", []).append(waiting)
    return found


def ray_labels(name: str, kind: str, group: str) -> dict[str, str]:
    return {"ray.io/cluster": f"{name}-x", "ray.io/node-type": kind, "ray.io/group": group}
