"""Read a serve_config file: what it asks for, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.settings import AUTO, ModelArgs
from medley.checks.entries import ROUTER_BUILDER, Application, applications_of, profile_of
from medley.checks.serve import serve_problems
from medley.checks.yaml_lines import read_document, sorted_problems
from models.slo import Profile
from models.specs import ModelSpec, VariantSpec


class ConfigError(Exception):
    """The file cannot be served; the message says what to change."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    app: str
    spec: ModelSpec
    variant_name: str
    sleeps: bool = False  # no replica starts until it is asked for

    @property
    def variant(self) -> VariantSpec:
        return self.spec.variant(self.variant_name)


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """
    Attributes:
        document: what is handed to Serve: the file, with the variant that was chosen in the place of each `auto`.
        choices: why, for each application whose variant was chosen, such as `auto -> onnx-int8: ...`.
    """

    path: Path
    document: dict[str, Any]
    models: list[ServedModel]
    choices: Mapping[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.document.get("http_options", {}).get("host", "0.0.0.0")

    @property
    def port(self) -> int:
        return self.document.get("http_options", {}).get("port", 8000)

    @property
    def address(self) -> str:
        """Where a client on this machine finds the edge."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def promises(self) -> Profile | None:
        """By which the router admits requests; None if it admits all."""
        applications = self.document.get("applications", [])
        routers = [one.get("args") for one in applications if one.get("import_path") == ROUTER_BUILDER]
        return next(filter(None, map(profile_of, routers)), None)

    @property
    def memory_gib(self) -> float:
        """What all replicas need that start at once, and 1.5 GiB for Ray and the router."""
        return 1.5 + sum(model.variant.needs.memory_gib for model in self.models if not model.sleeps)


def read_config(path: Path) -> ClusterConfig:
    """Read the file, as strictly as `medley check`.

    Raises:
        ConfigError: something is wrong with it; the message has a line for each problem.
    """
    document = read_document(path)
    problems = document.problems + (serve_problems(document) if document.readable else [])
    if wrong := [problem for problem in problems if problem.stops]:
        raise ConfigError("\n".join(map(str, sorted_problems(wrong))))
    models = [one for one in applications_of(document) if one.role == "model"]
    choices = {one.get("name"): choose_variant(one) for one in models if one.is_auto}
    return ClusterConfig(path, document.value, [_served(one) for one in models], choices)


def choose_variant(application: Application) -> str:
    """Write the variant in the place of `auto`, so that history, a rollback and every node mean the same by it.

    Returns:
        What was chosen, and why.

    Raises:
        ConfigError: slo.yaml, which the choice keeps to, is not valid.
    """
    from models.choice import choose

    assert application.spec
    try:
        choice = choose(application.spec)
    except ValueError as error:
        raise ConfigError(f"{application.get('name')}: its variant cannot be chosen. {error}") from None
    application.get("args")["variant"] = choice.variant
    return f"{AUTO} -> {choice.variant}: {choice.reason}"


def _served(application: Application) -> ServedModel:
    args = ModelArgs.model_validate(application.get("args"))
    return ServedModel(application.get("name"), args.spec, args.variant_name, sleeps(application.get("deployments")))


def sleeps(deployments: list[dict[str, Any]] | None) -> bool:
    """Whether all of them are scaled to zero until they are asked for."""
    return bool(deployments) and all(
        (one.get("autoscaling_config") or {}).get("min_replicas") == 0 for one in deployments
    )
