"""What differs between the applications that are deployed and those a document asks for, and what Serve does about it.

Ray decides, so Ray is asked: whether a key restarts an application is found by changing that key alone and comparing
Serve's own code versions, and by the annotations of Serve's own options.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from medley.checks.config import ConfigError
from medley.checks.yaml_lines import is_number

ABSENT = object()
KeyPath = tuple[str, ...]
Tree = dict[str, Any]


class Kind(StrEnum):
    """What a deploy does to one application."""

    ADD = "add"
    REMOVE = "remove"
    UNCHANGED = "unchanged"
    IN_PLACE = "change in place"
    RESTART = "rolling restart"


@dataclass(frozen=True, slots=True)
class Difference:
    """One key, with its deployed value and the value asked for. ABSENT where it is not set."""

    path: KeyPath
    old: Any
    new: Any
    restarts: bool

    @property
    def key(self) -> str:
        """As it stands in the file, without the deployment's name: an application of Medley has one deployment."""
        return ".".join(self.path[2:] if self.path[0] == "deployments" else self.path)

    def __str__(self) -> str:
        # Environment variables may hold secrets.
        if "env_vars" in self.path or any("env_vars" in str(value) for value in (self.old, self.new)):
            return self.key
        return f"{self.key} {_short(self.old)} -> {_short(self.new)}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What happens to one application, and the keys that cause it; those that restart it come first."""

    app: str
    kind: Kind
    differences: tuple[Difference, ...] = ()


def deployed(live: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The documents of the applications in Serve's answer. One that is being deleted has none."""
    return {
        name: application["deployed_app_config"]
        for name, application in live.get("applications", {}).items()
        if application.get("deployed_app_config") and application.get("status") != "DELETING"
    }


def as_deployed(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The applications of a document as Serve shows them once they are deployed.

    Raises:
        ConfigError: Serve would refuse the document.
    """
    from ray.serve.schema import ServeDeploySchema

    try:
        # A copy, because Serve's validators write into what they are given.
        schema = ServeDeploySchema.model_validate(copy.deepcopy(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"Serve would refuse this document at {where}: {first['msg']}.") from None
    for application in schema.applications:
        if application.logging_config is None and schema.logging_config:
            application.logging_config = schema.logging_config
    return {one.name: one.model_dump(mode="json", exclude_unset=True) for one in schema.applications}


def written_alike(live: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """The document with each number as it is written in what is deployed, where it is the same number.

    Serve compares texts, so it would replace replicas because of 16.0 in the place of 16.
    """
    old = deployed(live)
    entries = [_alike(old.get(entry.get("name"), {}), entry) for entry in document["applications"]]
    return {**copy.deepcopy(document), "applications": entries}


def _alike(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: _alike(old.get(key), value) for key, value in new.items()}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [_alike(*pair) for pair in zip(old, new, strict=True)]
    if is_number(old) and is_number(new) and old == new:
        return old
    return copy.deepcopy(new)


def compare(live: dict[str, Any], document: dict[str, Any]) -> list[Comparison]:
    """What a deploy of the document does to each application: those of the document in its order, then removed ones."""
    old, new = deployed(live), as_deployed(written_alike(live, document))
    applications = live.get("applications", {})
    found = [
        _compare_one(name, old[name], entry, applications[name]) if name in old else Comparison(name, Kind.ADD)
        for name, entry in new.items()
    ]
    # Serve deletes what an earlier document deployed. It leaves alone what a program deployed.
    return found + [
        Comparison(name, Kind.REMOVE)
        for name in old
        if name not in new and applications[name].get("source") != "imperative"
    ]


def _compare_one(app: str, old: Tree, new: Tree, application: Tree) -> Comparison:
    names = {one["name"] for entry in (old, new) for one in entry.get("deployments", [])}
    before, after = _tree(old, names), _tree(new, names)
    found = [
        Difference(path, was, will_be, _restarts(before, path, will_be))
        for path, was, will_be in _leaves(before, after, ())
    ]
    found = [one for one in found if one.restarts or not _is_so_already(one, application)]
    found.sort(key=lambda one: not one.restarts)
    # The versions of the whole differ without any key that does when only the order of deployments changed.
    if any(one.restarts for one in found) or _code_version(before) != _code_version(after):
        return Comparison(app, Kind.RESTART, tuple(found))
    return Comparison(app, Kind.IN_PLACE if found else Kind.UNCHANGED, tuple(found))


def _tree(entry: Tree, names: set[str]) -> Tree:
    """An application with Serve's defaults filled in, and its deployments by name."""
    from ray.serve.schema import ServeApplicationSchema

    schema = ServeApplicationSchema.model_validate(copy.deepcopy(entry))
    tree = schema.model_dump(mode="json", exclude={"deployments"})
    stated = schema.model_dump(mode="json", include={"deployments"}, exclude_unset=True).get("deployments", [])
    blocks = {one.pop("name"): one for one in stated}
    return {**tree, "deployments": blocks | {name: {} for name in sorted(names - set(blocks))}}


def _leaves(old: Tree, new: Tree, path: KeyPath) -> list[tuple[KeyPath, Any, Any]]:
    """Every key whose value differs, as deep as both sides are mappings."""
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        was, will_be = old.get(key, ABSENT), new.get(key, ABSENT)
        if isinstance(was, dict) and isinstance(will_be, dict):
            found += _leaves(was, will_be, (*path, key))
        elif was is ABSENT or will_be is ABSENT or _text(was) != _text(will_be):
            found.append(((*path, key), was, will_be))
    return found


def _text(value: Any) -> str:
    """As Serve compares. To Python, True is 1."""
    return json.dumps(value, sort_keys=True, default=str)


def _restarts(tree: Tree, path: KeyPath, value: Any) -> bool:
    """Whether Serve replaces the replicas when this key alone changes."""
    if _code_version(tree) != _code_version(_with(tree, path, value)):
        return True
    return path[0] == "deployments" and not _is_light(path[2])


def _is_light(option: str) -> bool:
    """Whether replicas go on running when this option of a deployment changes.

    Options of the replica's actor and of its placement are not among those that Serve annotates; they all restart.
    """
    from ray.serve._private.config import DeploymentConfig
    from ray.serve._private.utils import DeploymentOptionUpdateType

    field = DeploymentConfig.model_fields.get(option)
    extra = field.json_schema_extra if field else None
    kind = extra.get("update_type") if isinstance(extra, dict) else None
    return kind is not None and kind != DeploymentOptionUpdateType.HeavyWeight


def _code_version(tree: Tree) -> str:
    from ray.serve._private.deploy_utils import get_app_code_version
    from ray.serve.schema import DeploymentSchema, ServeApplicationSchema

    # Not validated: a tree with one key changed need not be a valid application, and both sides were validated whole.
    blocks = [DeploymentSchema.model_construct(name=name, **options) for name, options in tree["deployments"].items()]
    return get_app_code_version(ServeApplicationSchema.model_construct(**{**tree, "deployments": blocks}))


def _with(tree: Tree, path: KeyPath, value: Any) -> Tree:
    changed = copy.deepcopy(tree)
    place = changed
    for key in path[:-1]:
        place = place[key]
    if value is ABSENT:
        del place[path[-1]]
    else:
        place[path[-1]] = copy.deepcopy(value)
    return changed


def _is_so_already(difference: Difference, application: Tree) -> bool:
    """Whether the file now states what the deployment's code or Serve's default had set all the time."""
    if difference.old is not ABSENT or difference.path[0] != "deployments" or isinstance(difference.new, dict):
        return False
    _, deployment, *option = difference.path
    effective = application.get("deployments", {}).get(deployment, {}).get("deployment_config", {})
    return len(option) == 1 and option[0] in effective and effective[option[0]] == difference.new


def _short(value: Any) -> str:
    if value is ABSENT:
        return "(not set)"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
