"""What Medley asks of its overlays, over all objects of one together."""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from medley.checks.serve import serve_problems
from medley.checks.yaml_lines import read_document
from medley.k8s.findings import Finding, Findings
from medley.k8s.operator_rules import INCREMENTAL
from medley.k8s.overlays import Object, groups_of, name_of, of_kind, worker_groups_of
from medley.k8s.pod_security import containers
from medley.k8s.pods import pods_of
from models.documents import read_yaml

DRAIN, READY = "medley.node.drain", "medley.node.ready"
# A replica leaves a drained node when its successor runs elsewhere, for which this much is allowed, and when it has
# finished its requests.
START_S = 60
# As docker/Dockerfile is built, without a registry.
LOCAL_IMAGE = "medley"
DIGEST = re.compile("sha256:[0-9a-f]{64}")
NO_DIGEST = "@sha256:" + 64 * "0"
BY_DIGEST = "Write newName, newTag and digest under images of the overlay's kustomization.yaml."


def house_problems(objects: list[Object]) -> Findings:
    services = of_kind(objects, "RayService")
    if len(services) != 1:
        yield Finding("overlay", "", f"it has {len(services)} RayServices. One is meant.")
    for service in services:
        for rule in (_serve_config, _proxies, _ending, _probes, _head, _shared_memory, _gpus, _version):
            yield from (Finding(name_of(service), where, what) for where, what in rule(service))
        for rule in (_network, _routes, _references):
            yield from rule(service, objects)
    yield from _budgets(objects)
    yield from _fetchers(objects)
    yield from _images(objects)


Found = Iterator[tuple[str, str]]


def serve_config_of(service: Object) -> Object:
    """What serveConfigV2 says; empty where that is no mapping."""
    try:
        document = read_yaml(service["spec"].get("serveConfigV2") or "")
    except yaml.YAMLError:
        return {}
    return document if isinstance(document, dict) else {}


def _serve_config(service: Object) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "serveConfigV2"
        file.write_text(service["spec"].get("serveConfigV2") or "")
        for problem in serve_problems(read_document(file)):
            if problem.stops:
                yield f"serveConfigV2 line {problem.line}, {problem.where}", problem.message


def _proxies(service: Object) -> Found:
    config = serve_config_of(service)
    if config.get("proxy_location") != "EveryNode":
        yield "serveConfigV2", "proxy_location must be EveryNode: a worker without a proxy is never ready."
    if (config.get("http_options") or {}).get("host") != "0.0.0.0":
        yield "serveConfigV2", "http_options.host must be 0.0.0.0, or nothing from outside the pod arrives."


def longest_request_s(service: Object) -> float:
    """The longest time that a replica is given to end what it has."""
    deployments = [
        each for one in serve_config_of(service).get("applications", []) for each in one.get("deployments", [])
    ]
    return max((each.get("graceful_shutdown_timeout_s", 0) for each in deployments), default=0)


def _ending(service: Object) -> Found:
    longest = longest_request_s(service)
    for where, group in worker_groups_of(service):
        spec = group["template"]["spec"]
        grace, deadline = spec.get("terminationGracePeriodSeconds", 30), drain_deadline_s(spec)
        if deadline is None:
            yield where, f"has no preStop hook `python -m {DRAIN} --deadline N`: what its replicas have is cut off."
            continue
        if deadline < longest + START_S:
            what = f"drains for {deadline:g} s: {longest:g} s of a request (graceful_shutdown_timeout_s) and {START_S}"
            yield where, f"{what} s for the replica that takes over do not fit, and then none is awaited."
        if grace <= deadline:
            yield where, f"terminationGracePeriodSeconds {grace} is not above the {deadline:g} s of its preStop hook."


def drain_deadline_s(spec: Object) -> float | None:
    """Of the drain hook of Ray's container; None if it has none."""
    hook = (spec["containers"][0].get("lifecycle") or {}).get("preStop") or {}
    command = (hook.get("exec") or {}).get("command") or []
    if DRAIN not in command or "--deadline" not in command:
        return None
    return float(command[command.index("--deadline") + 1])


def _probes(service: Object) -> Found:
    """KubeRay's own readiness probe needs bash and wget, which the image has no need of."""
    for place, group in groups_of(service):
        probe = group["template"]["spec"]["containers"][0].get("readinessProbe") or {}
        if READY not in ((probe.get("exec") or {}).get("command") or []):
            yield place, f"has no readinessProbe `python -m {READY}`; KubeRay's own needs wget."


def _head(service: Object) -> Found:
    cluster = service["spec"]["rayClusterConfig"]
    start = cluster["headGroupSpec"].get("rayStartParams") or {}
    if str(start.get("num-cpus")) != "0":
        yield "headGroupSpec", 'rayStartParams num-cpus is not "0": replicas would run beside the autoscaler\'s token.'
    if not service["spec"].get("excludeHeadPodFromServeSvc"):
        yield "spec", "excludeHeadPodFromServeSvc is not true: users' requests would pass through the head."


def _shared_memory(service: Object) -> Found:
    """Ray's object store is in /dev/shm. If it does not fit there, Ray uses the disk and says so only in a log."""
    for place, group in groups_of(service):
        store = int((group.get("rayStartParams") or {}).get("object-store-memory", 0))
        room = shared_memory_of(group["template"]["spec"])
        if not store:
            yield (
                place,
                "has no rayStartParams object-store-memory: Ray takes 30 % of memory for it, room or not.",
            )
        elif store >= room:
            yield place, f"object-store-memory {store} does not fit into /dev/shm of {room:.0f} bytes."


def shared_memory_of(spec: Object) -> float:
    """Bytes of /dev/shm in Ray's container; 64 MiB, a container's own, where nothing is mounted there."""
    from ray.autoscaler._private.kuberay.utils import parse_quantity

    mounts = {one["mountPath"]: one["name"] for one in spec["containers"][0].get("volumeMounts") or []}
    for volume in spec.get("volumes") or []:
        if volume["name"] == mounts.get("/dev/shm") and (size := (volume.get("emptyDir") or {}).get("sizeLimit")):
            return float(parse_quantity(size))
    return 64 << 20


def gpus_of(group: Object) -> str | None:
    limits = (group["template"]["spec"]["containers"][0].get("resources") or {}).get("limits") or {}
    return limits.get("nvidia.com/gpu")


def _gpus(service: Object) -> Found:
    sleeping = [(where, one) for where, one in worker_groups_of(service) if gpus_of(one) and not one["minReplicas"]]
    for where, group in worker_groups_of(service):
        tolerated = [one.get("key") for one in group["template"]["spec"].get("tolerations") or []]
        if gpus_of(group) and "nvidia.com/gpu" not in tolerated:
            yield where, "does not tolerate nvidia.com/gpu, the taint of GPU nodes."
        if gpus_of(group) and "ray.io/accelerator-type" not in (group.get("labels") or {}):
            yield where, "has no label ray.io/accelerator-type, so no model can ask for it."
    router = next((one for one in serve_config_of(service).get("applications", []) if one["name"] == "router"), {})
    labels = (router.get("args") or {}).get("label_selector") or {}
    for where, group in sleeping:
        if labels.items() <= (group.get("labels") or {}).items():
            yield where, "a router may run there and keep its GPU: give the router a label_selector of another group."


def _version(service: Object) -> Found:
    version, here = service["spec"]["rayClusterConfig"].get("rayVersion"), importlib.metadata.version("ray")
    if version != here:
        yield "rayClusterConfig.rayVersion", f"{version} is not the image's: requirements/ has {here}."


def _network(service: Object, objects: list[Object]) -> Findings:
    """Where a policy denies all traffic, others must allow what Medley needs."""
    policies = of_kind(objects, "NetworkPolicy")
    if not any(not policy["spec"].get("podSelector") for policy in policies):
        return
    options = service["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions") or {}
    if options.get("backend") == "redis" and of_kind(objects, "StatefulSet"):
        for kind in ("head", "redis-cleanup"):
            if not any(_admits(policy, 6379, kind) for policy in policies):
                yield Finding("NetworkPolicy", "", f"none lets pods of ray.io/node-type {kind} reach Redis, port 6379.")
    for port in (8000, 8265):
        if not any(_opens(policy, port) for policy in policies):
            yield Finding("NetworkPolicy", "", f"none opens port {port} of Ray's pods.")


def _fetchers(objects: list[Object]) -> Findings:
    """Where a policy denies all traffic, only a pod that another policy lets out can fetch weights."""
    policies = of_kind(objects, "NetworkPolicy")
    if not any(not policy["spec"].get("podSelector") for policy in policies):
        return
    for one in objects:
        for subject, pod in pods_of(one):
            labels = pod["metadata"]["labels"]
            for place, container in containers(pod["spec"]):
                if not _fetches(container) or any(_lets_out(policy, labels, 443) for policy in policies):
                    continue
                what = (
                    "fetches weights, and no NetworkPolicy lets this pod out to port 443. Let the Job fetch, and wait:"
                )
                yield Finding(subject, f"{place} {container['name']}", f"{what} `medley fetch FILE --wait SECONDS`.")


def _fetches(container: Object) -> bool:
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    return "medley" in words and "fetch" in words and "--wait" not in words


def _lets_out(policy: Object, labels: dict[str, str], port: int) -> bool:
    """Whether a policy lets pods with these labels reach a port anywhere."""
    selector = policy["spec"].get("podSelector") or {}
    wanted = selector.get("matchLabels") or {}
    if not wanted or not wanted.items() <= labels.items() or selector.get("matchExpressions"):
        return False
    rules = [rule for rule in policy["spec"].get("egress") or [] if not rule.get("to")]
    return any(not rule.get("ports") or any(port == each.get("port") for each in rule["ports"]) for rule in rules)


def _images(objects: list[Object]) -> Findings:
    """An image from a registry is named by its digest. Medley's own name without a registry is a local image, which has
    none: what a small cluster such as kind is given by hand."""
    for subject, image in images_of(objects):
        if "@" not in image and image.partition(":")[0] != LOCAL_IMAGE:
            yield Finding(subject, "image", f"{image} is named by its tag, which may be moved. {BY_DIGEST}")
        elif "@" in image and not DIGEST.fullmatch(image.partition("@")[2]):
            yield Finding(subject, "image", f"{image} has no right digest: sha256: and 64 hexadecimal digits.")


def placeholders(objects: list[Object]) -> Findings:
    """What an overlay as it ships leaves to whoever applies it."""
    for subject, image in images_of(objects):
        if image.endswith(NO_DIGEST) or image.startswith("registry.example.com/"):
            yield Finding(subject, "image", f"{image} is a placeholder and no image. {BY_DIGEST}")


def images_of(objects: list[Object]) -> Iterator[tuple[str, str]]:
    """Every image once, with a pod that runs it."""
    subjects: dict[str, str] = {}
    for one in objects:
        for subject, pod in pods_of(one):
            for _, container in containers(pod["spec"]):
                subjects.setdefault(str(container.get("image", "")), subject)
    for image, subject in subjects.items():
        yield subject, image


def _admits(policy: Object, port: int, node_type: str) -> bool:
    for rule in policy["spec"].get("ingress") or []:
        ports = [each.get("port") for each in rule.get("ports") or []]
        peers = [each.get("podSelector") or {} for each in rule.get("from") or []]
        kinds = [
            value for peer in peers for each in peer.get("matchExpressions") or [] for value in each.get("values", [])
        ]
        if port in ports and node_type in kinds:
            return True
    return False


def _opens(policy: Object, port: int) -> bool:
    rules = policy["spec"].get("ingress") or []
    return any(port == each.get("port") for rule in rules for each in rule.get("ports") or [])


def _routes(service: Object, objects: list[Object]) -> Findings:
    name = service["metadata"]["name"]
    incremental = (service["spec"].get("upgradeStrategy") or {}).get("type") == INCREMENTAL
    router = next((one for one in serve_config_of(service).get("applications", []) if one["name"] == "router"), {})
    deadline_s = (router.get("args") or {}).get("deadline_s", 600)
    for route in of_kind(objects, "HTTPRoute"):
        for rule in route["spec"].get("rules") or []:
            for backend in rule.get("backendRefs") or []:
                if backend["name"] == f"{name}-serve-svc" and incremental:
                    yield Finding(name_of(route), "", f"{backend['name']} does not exist with {INCREMENTAL}.")
                elif backend["name"] != f"{name}-serve-svc":
                    yield Finding(
                        name_of(route), "", f"{backend['name']} is no Service of KubeRay's; {name}-serve-svc is."
                    )
            limit = _seconds((rule.get("timeouts") or {}).get("request"))
            if limit is not None and limit <= deadline_s:
                what = f"ends requests after {limit:g} s, the router after {deadline_s:g} s, and only it says why."
                yield Finding(name_of(route), "timeouts", what)


def _seconds(text: str | None) -> float | None:
    """Of a Gateway API duration in one unit, such as `900s`."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    number = (text or "").rstrip("msh")
    return float(number) * units[(text or "")[len(number) :]] if number else None


def _references(service: Object, objects: list[Object]) -> Findings:
    """Config maps, claims and accounts that pods name are there. Secrets are not in any file."""
    kinds = {"configMap": ("ConfigMap", "name"), "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName")}
    there = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for one in objects:
        for subject, pod in pods_of(one):
            spec = pod["spec"]
            for volume in spec.get("volumes") or []:
                for key, (kind, field) in kinds.items():
                    if key in volume and (kind, volume[key][field]) not in there:
                        yield Finding(subject, f"volumes {volume['name']}", f"there is no {kind} {volume[key][field]}.")
            account: Any = spec.get("serviceAccountName")
            if account and ("ServiceAccount", account) not in there:
                yield Finding(subject, "serviceAccountName", f"there is no ServiceAccount {account}.")


def _budgets(objects: list[Object]) -> Findings:
    for budget in of_kind(objects, "PodDisruptionBudget"):
        if "maxUnavailable" in budget["spec"] or not isinstance(budget["spec"].get("minAvailable"), int):
            what = "only a whole minAvailable works: a RayCluster has no scale subresource to count from."
            yield Finding(name_of(budget), "spec", what)
