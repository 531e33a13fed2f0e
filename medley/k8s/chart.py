"""A Helm chart of an overlay: what Kustomize renders, with what differs from cluster to cluster as values.

The chart is written, never edited: the overlay stays the one source, and Helm adds its values and its releases.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medley.k8s.generated import as_yaml
from medley.k8s.overlays import Object

HEADER = "# Written by `medley k8s chart {}`. Change the overlay, or give values of your own with --values.\n"
# A value's place in an object, until the object is text: Helm's own braces would not be YAML.
PLACE = re.compile(r"VALUE<([^>]+)>")
DESCRIPTION = "One OpenAI-compatible endpoint in front of many generative models, on KubeRay"

Values = dict[str, Any]


def chart(name: str, objects: list[Object]) -> dict[Path, str]:
    """The files of a chart, by their paths in it. Its namespace is the release's, so there is no Namespace among them.

    Args:
        name: the overlay's.
        objects: what Kustomize makes of it.
    """
    values: Values = {}
    templates = [with_places(one, values) for one in objects if one["kind"] != "Namespace"]
    about = {
        "apiVersion": "v2",
        "name": "medley",
        "description": f"{DESCRIPTION} ({name})",
        "type": "application",
        "version": version("medley"),
        "appVersion": version("medley"),
    }
    header = HEADER.format(name)
    return {
        Path("Chart.yaml"): header + as_yaml(about),
        Path("values.yaml"): header + as_yaml(values),
        Path("values.schema.json"): json.dumps(schema_of(values), indent=2) + "\n",
        Path("templates/medley.yaml"): header + "---\n".join(as_template(one) for one in templates),
    }


def with_places(one: Object, values: Values) -> Object:
    """An object with placeholders where values belong. Adds the overlay's own values to `values`."""
    changed = copy.deepcopy(one)

    def put(holder: Any, key: Any, *path: str) -> None:
        inner = values
        for word in path[:-1]:
            inner = inner.setdefault(word, {})
        inner[path[-1]] = holder[key]
        holder[key] = f"VALUE<{'/'.join(path)}>"

    if "namespace" in changed["metadata"]:
        changed["metadata"]["namespace"] = "VALUE<>"
    for kind, put_values in PUTTERS:
        if changed["kind"] == kind:
            put_values(changed, put)
    for container in containers_of(changed):
        put(container, "image", "images", name_of_image(container["image"]))
    return changed


Put = Callable[..., None]


def put_group_sizes(service: Object, put: Put) -> None:
    for group in service["spec"]["rayClusterConfig"].get("workerGroupSpecs") or []:
        for key in ("minReplicas", "maxReplicas"):
            put(group, key, "groups", group["groupName"], key)


def put_gateway(gateway: Object, put: Put) -> None:
    put(gateway["spec"], "gatewayClassName", "gateway", "className")
    for listener in gateway["spec"]["listeners"]:
        if "hostname" in listener:
            put(listener, "hostname", "gateway", "host")


def put_host(route: Object, put: Put) -> None:
    hosts = route["spec"].get("hostnames") or []
    for place in range(len(hosts)):
        put(hosts, place, "gateway", "host")


def put_volume(claim: Object, put: Put) -> None:
    spec = claim["spec"]
    put(spec["resources"]["requests"], "storage", "volumes", claim["metadata"]["name"], "size")
    if "storageClassName" in spec:
        put(spec, "storageClassName", "volumes", claim["metadata"]["name"], "className")


PUTTERS: tuple[tuple[str, Callable[[Object, Put], None]], ...] = (
    ("RayService", put_group_sizes),
    ("Gateway", put_gateway),
    ("HTTPRoute", put_host),
    ("PersistentVolumeClaim", put_volume),
)


def containers_of(tree: Any) -> Iterator[Object]:
    """Every container of an object, however deep."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in ("containers", "initContainers"):
                yield from value
            yield from containers_of(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from containers_of(value)


def name_of_image(image: str) -> str:
    """`cpu` of registry.example.com/medley:0.1.0-cpu, `redis` of redis:7: an organisation may keep them elsewhere."""
    name, _, tag = image.partition("@")[0].rpartition("/")[2].partition(":")
    return tag.rpartition("-")[2] if name == "medley" else name


def as_template(one: Object) -> str:
    """As text for Helm. Braces that are not Helm's (Prometheus and Grafana use them too) are escaped."""
    text = as_yaml(one).replace("{{", '{{ "{{" }}')
    return PLACE.sub(lambda found: expression(found[1].split("/")), text.replace("VALUE<>", "{{ .Release.Namespace }}"))


def expression(path: Iterable[str]) -> str:
    return "{{ index .Values " + " ".join(f'"{word}"' for word in path) + " | toJson }}"


def schema_of(value: Any) -> Object:
    """A schema by which Helm refuses a misspelt value instead of ignoring it."""
    if isinstance(value, dict):
        properties = {key: schema_of(inner) for key, inner in value.items()}
        return {"type": "object", "additionalProperties": False, "properties": properties}
    return {"type": {str: "string", int: "integer"}[type(value)]}
