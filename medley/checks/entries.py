"""The applications of a serve config, as the rules look at them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deployments.settings import AUTO, RouterArgs
from medley.checks.words import nearest
from medley.checks.yaml_lines import MISSING, Document, KeyPath, is_number
from models.catalog import load_catalog
from models.slo import Profile
from models.specs import ModelSpec

MODEL_BUILDER = "deployments.model:build"
ROUTER_BUILDER = "deployments.router.ingress:build"
BUILDERS = {MODEL_BUILDER: "model", ROUTER_BUILDER: "router"}

Found = Iterator[tuple[KeyPath, str]]


@dataclass(frozen=True, slots=True)
class Application:
    """An entry of `applications`. `role` is model or router, by the builder or, if misspelt, the nearest one."""

    document: Document
    path: KeyPath
    role: str | None

    def get(self, *keys: Any) -> Any:
        return self.document.at((*self.path, *keys))

    def number(self, *keys: Any) -> float | None:
        """A number. None for anything else."""
        value = self.get(*keys)
        return float(value) if is_number(value) else None

    def lacks(self, *keys: Any) -> bool:
        """Whether a key is missing, and neither it nor a key above it is just misspelt."""
        path = (*self.path, *keys)
        above = [path[:end] for end in range(len(self.path), len(path) + 1)]
        return self.document.at(path) is MISSING and not any(one in self.document.meant for one in above)

    @property
    def spec(self) -> ModelSpec | None:
        """The model that `args.model` names; `model@variant` is one, under that name."""
        name = self.get("args", "model")
        return load_catalog().get(name) if self.role == "model" and isinstance(name, str) else None

    @property
    def variant(self) -> str | None:
        """The variant of a model: the one in `args`, else the default. None if there is none or it is `auto`."""
        given = self.get("args", "variant")
        if self.spec is None:
            return None
        name = self.spec.default_variant if given is MISSING or given is None else given
        return name if isinstance(name, str) and name in self.spec.variants else None

    @property
    def is_auto(self) -> bool:
        """Whether its variant is to be chosen by measurements."""
        return self.spec is not None and self.spec.id == self.spec.row and self.get("args", "variant") == AUTO

    @property
    def deployments(self) -> list[int]:
        entries = self.get("deployments")
        return [i for i, one in enumerate(entries) if isinstance(one, dict)] if isinstance(entries, list) else []


def applications_of(document: Document) -> list[Application]:
    entries = document.at(("applications",))
    if not isinstance(entries, list):
        return []
    return [
        Application(document, ("applications", index), _role(entry))
        for index, entry in enumerate(entries)
        if isinstance(entry, dict)
    ]


def _role(entry: dict[str, Any]) -> str | None:
    near = nearest(str(entry.get("import_path")), BUILDERS)
    return BUILDERS[near[0]] if near else None


def deadline_of(applications: list[Application]) -> float:
    """Seconds a request may take, by the router's arguments."""
    given = [one.number("args", "deadline_s") for one in applications if one.role == "router"]
    return next((one for one in given if one and one > 0), RouterArgs().deadline_s)


def promises_of(applications: list[Application]) -> Profile | None:
    """The promises that the router admits requests by. None if it has none; wrong arguments are reported elsewhere."""
    for router in (one for one in applications if one.role == "router"):
        return profile_of(router.get("args"))
    return None


def profile_of(args: Any) -> Profile | None:
    """The profile that a router's arguments name; None if they name none, or are wrong."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        read = RouterArgs.model_validate(args)
        return read.profile() if read.promises else None
    return None
