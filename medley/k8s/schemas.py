"""Objects against schemas: Kubernetes' own for its kinds, KubeRay's CRDs for Ray's."""

from __future__ import annotations

import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from medley.k8s.findings import Finding, Findings
from medley.k8s.overlays import Object, name_of
from models.documents import read_yaml

# The oldest one that is maintained has all that is used here.
KUBERNETES = "1.34"
# Kinds of others, whose schemas no package has. Ray's are checked where CRDS points to a folder of them.
OTHERS = ("gateway.networking.k8s.io", "monitoring.coreos.com")
CRDS = "KUBERAY_CRDS"


def core_problems(one: Object, subject: str | None = None) -> Findings:
    """An object of Kubernetes itself against its schema, strictly: an unknown key is a mistake."""
    validation = _validation()
    subject = subject or name_of(one)
    group = str(one.get("apiVersion", "")).rpartition("/")[0]
    if group in ("ray.io", *OTHERS):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            validation.validate(one, KUBERNETES, strict=True)
    except validation.SchemaNotFoundError:
        yield Finding(subject, "kind", f"Kubernetes {KUBERNETES} has no {one.get('kind')} in {one.get('apiVersion')}.")
    except validation.ValidationError as error:
        yield Finding(subject, ".".join(map(str, error.path)), first_line(error.message))


@cache
def _validation() -> Any:
    """The library, which would read megabytes of schemas again for each object."""
    from kubernetes_validate import utils

    utils.schema_contents = cache(utils.schema_contents)
    return utils


def ray_problems(one: Object, folder: Path) -> Findings:
    """An object of Ray against KubeRay's CRD, strictly.

    Args:
        folder: of the CRDs, `ray.io_*.yaml`.
    """
    from jsonschema import Draft202012Validator

    group, _, version = str(one.get("apiVersion", "")).rpartition("/")
    if group != "ray.io":
        return
    schema = schemas_of(folder, str(one.get("kind"))).get(version)
    if schema is None:
        yield Finding(name_of(one), "kind", f"KubeRay has no {one.get('kind')} in {one.get('apiVersion')}.")
        return
    for error in sorted(Draft202012Validator(schema).iter_errors(one), key=lambda error: list(map(str, error.path))):
        yield Finding(name_of(one), ".".join(map(str, error.path)), first_line(error.message))


def crds() -> Path | None:
    """The folder that KUBERAY_CRDS names, if it is there."""
    folder = os.environ.get(CRDS)
    return Path(folder) if folder and Path(folder).is_dir() else None


@cache
def schemas_of(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Of one kind, by version. Raises ValueError: the folder has no CRDs of Ray."""
    files = {file.name: file for file in folder.glob("ray.io_*.yaml")}
    if not files:
        raise ValueError(f"{folder} has no ray.io_*.yaml")
    # Only the file of this kind is read: each has a megabyte.
    file = files.get(f"ray.io_{kind.lower()}s.yaml")
    versions = read_yaml(file.read_text())["spec"]["versions"] if file else []
    return {version["name"]: strictly(version["schema"]["openAPIV3Schema"]) for version in versions}


def strictly(schema: Any) -> Any:
    """A CRD's schema as JSON Schema that refuses unknown keys, as an API server prunes them and warns.

    Source: Kubernetes, "Custom resource definitions", structural schemas.
    """
    if isinstance(schema, list):
        return [strictly(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    keywords = {"properties", "items", "additionalProperties", "anyOf", "allOf", "oneOf"}
    found = {key: value for key, value in schema.items() if key not in keywords and not key.startswith("x-")}
    for key in keywords & schema.keys():
        value = schema[key]
        found[key] = {name: strictly(one) for name, one in value.items()} if key == "properties" else strictly(value)
    if schema.get("nullable") and "type" in found:
        found["type"] = [found["type"], "null"]
    # An embedded object's metadata is `type: object` and nothing more.
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and not open_ended:
        found["additionalProperties"] = False
    return found


def first_line(message: str) -> str:
    """Of a validator's message, without the whole object in front of it."""
    line = message.splitlines()[0]
    return line if len(line) < 300 else f"… {line[-200:]}"
