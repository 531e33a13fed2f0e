"""Pods against the Pod Security Standards' "restricted" profile, and what a shared cluster demands besides.

Source: Kubernetes, "Pod Security Standards". The API server enforces the same where the namespace says so; here it is
found before anything is applied, and in the pods that KubeRay makes as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medley.k8s.findings import Finding, Findings
from medley.k8s.overlays import Object

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SECCOMP = {"RuntimeDefault", "Localhost"}


def pod_problems(subject: str, pod: Object) -> Findings:
    spec = pod["spec"]
    yield from (Finding(subject, where, what) for where, what in _of_pod(spec))
    for place, container in containers(spec):
        found = _of_container(container, spec.get("securityContext") or {}, place.startswith("initContainers"))
        yield from (Finding(subject, f"{place} {container.get('name')}{where}", what) for where, what in found)


def containers(spec: Object) -> Iterator[tuple[str, Object]]:
    for key in ("initContainers", "containers"):
        for container in spec.get(key) or []:
            yield key, container


def _of_pod(spec: Object) -> Iterator[tuple[str, str]]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key, "shares the node's own. Take it out."
    for volume in spec.get("volumes") or []:
        if strange := set(volume) - {"name"} - VOLUMES:
            yield f"volumes {volume['name']}", f"{', '.join(strange)} is not allowed. Use a claim or an emptyDir."
        if "emptyDir" in volume and not (volume["emptyDir"] or {}).get("sizeLimit"):
            yield f"volumes {volume['name']}", "has no sizeLimit: one pod can fill the disk of its node. Give it one."
    if spec.get("automountServiceAccountToken", True) and not _needs_token(spec):
        yield "automountServiceAccountToken", "a token of the API server that nothing here uses. Set it to false."


def _needs_token(spec: Object) -> bool:
    """Ray's autoscaler asks the API server for pods."""
    return any(container.get("name") == "autoscaler" for container in spec["containers"])


def _of_container(container: Object, of_pod: Object, first: bool) -> Iterator[tuple[str, str]]:
    context: dict[str, Any] = container.get("securityContext") or {}
    if context.get("privileged"):
        yield ".privileged", "owns the node. Take it out."
    if context.get("allowPrivilegeEscalation") is not False:
        yield ".allowPrivilegeEscalation", "is not false."
    if not context.get("readOnlyRootFilesystem"):
        yield ".readOnlyRootFilesystem", "is not true. What is written goes to /tmp, an emptyDir."
    if "ALL" not in (context.get("capabilities") or {}).get("drop", []):
        yield ".capabilities", "are not all dropped."
    if strange := set((context.get("capabilities") or {}).get("add", [])) - {"NET_BIND_SERVICE"}:
        yield ".capabilities", f"adds {', '.join(sorted(strange))}."
    if not context.get("runAsNonRoot", of_pod.get("runAsNonRoot")):
        yield ".runAsNonRoot", "is not true, here or for the pod."
    if context.get("runAsUser", of_pod.get("runAsUser")) == 0:
        yield ".runAsUser", "is root."
    profile = (context.get("seccompProfile") or of_pod.get("seccompProfile") or {}).get("type")
    if profile not in SECCOMP:
        yield ".seccompProfile", "is not RuntimeDefault, here or for the pod."
    limits = (container.get("resources") or {}).get("limits") or {}
    if not limits.get("memory"):
        yield ".resources", "has no limit of memory: one container can take the whole node."
    image = str(container.get("image", ""))
    if ":" not in image.rpartition("/")[2] or image.endswith(":latest"):
        yield ".image", f"{image!r} may be another image tomorrow. Name a tag or a digest."
    if not first and any(port.get("hostPort") for port in container.get("ports") or []):
        yield ".ports", "hostPort opens a port of the node. Take it out."
