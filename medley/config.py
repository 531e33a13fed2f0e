"""Read a serve_config file: what it asks for, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deployments.settings import ModelArgs
from models.errors import ModelNotFound
from models.specs import ModelSpec, VariantSpec

MODEL_BUILDER = "deployments.model:build"


class ConfigError(Exception):
    """The file cannot be served; the message says what to change."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    app: str
    spec: ModelSpec
    variant_name: str

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
        """What all first replicas need, and 1.5 GiB for Ray and the router."""
        return 1.5 + sum(model.variant.needs.memory_gib for model in self.models)


def read_config(path: Path) -> ClusterConfig:
    """Read the file.

    Raises:
        ConfigError: it is not there, not YAML, or names a model, variant or argument that does not exist.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    applications = document.get("applications") if isinstance(document, dict) else None
    if not applications or not isinstance(applications, list) or not all(isinstance(one, dict) for one in applications):
        raise ConfigError(f"{path} names no applications; serve_config.yaml shows how one looks.")
    models = []
    for application in applications:
        if application.get("import_path") != MODEL_BUILDER:
            continue
        app = application.get("name", "?")
        try:
            args = ModelArgs.model_validate(application.get("args"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, ("args", *first["loc"])))
            raise ConfigError(f"{path}, application {app}, {where}: {first['msg']}.") from None
        except ModelNotFound as error:
            raise ConfigError(f"{path}, application {app}: {error.message}") from None
        if app != args.model:
            raise ConfigError(
                f"{path}: the application {app} serves {args.model}. Name it {args.model}, so that the router finds it."
            )
        models.append(ServedModel(app, args.spec, args.variant_name))
    return ClusterConfig(path, document, models)
