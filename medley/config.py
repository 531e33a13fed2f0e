"""Read a serve_config file: what it asks for, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.settings import ModelArgs
from medley.checks.entries import MODEL_BUILDER, Application, applications_of
from medley.checks.serve import serve_problems
from medley.yaml_lines import read_document, sorted_problems
from models.specs import ModelSpec, VariantSpec

__all__ = ["MODEL_BUILDER", "ClusterConfig", "ConfigError", "ServedModel", "read_config"]


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
    path: Path
    document: dict[str, Any]
    models: list[ServedModel]

    @property
    def host(self) -> str:
        return self.document.get("http_options", {}).get("host", "0.0.0.0")

    @property
    def port(self) -> int:
        return self.document.get("http_options", {}).get("port", 8000)

    @property
    def address(self) -> str:
        """Where a client on this machine finds the edge."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"

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
    if problems:
        raise ConfigError("\n".join(map(str, sorted_problems(problems))))
    return ClusterConfig(
        path, document.value, [_served(one) for one in applications_of(document) if one.role == "model"]
    )


def _served(application: Application) -> ServedModel:
    args = ModelArgs.model_validate(application.get("args"))
    return ServedModel(application.get("name"), args.spec, args.variant_name, sleeps(application.get("deployments")))


def sleeps(deployments: list[dict[str, Any]] | None) -> bool:
    """Whether all of them are scaled to zero until they are asked for."""
    return bool(deployments) and all(
        (one.get("autoscaling_config") or {}).get("min_replicas") == 0 for one in deployments
    )
