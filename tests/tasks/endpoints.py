"""Every endpoint that takes a body, of every task, with a body that is valid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from bodies import BODIES
from fastapi.routing import APIRoute
from small_models import small_model

from deployments.router.routes import estimate, tokens
from models.registry import part
from models.tasks import TASKS, embeddings
from models.tasks.task import Task


@dataclass(frozen=True)
class Endpoint:
    """
    Attributes:
        task: whose models answer it.
        forms: it takes forms, too.
    """

    path: str
    task: Task[Any]
    forms: bool
    example: dict[str, Any]

    @property
    def body(self) -> dict[str, Any]:
        """A valid one in which much is asked for."""
        return {"model": small_model(self.task).id} | BODIES.get(self.path, self.example)


def endpoints_of(task: Task[Any], router: Any) -> list[Endpoint]:
    found = []
    for route in router.routes:
        if isinstance(route, APIRoute) and "POST" in route.methods:
            content = (route.openapi_extra or {})["requestBody"]["content"]
            example = {**content["application/json"]["example"]}
            example.pop("model")
            found.append(Endpoint(route.path, task, "multipart/form-data" in content, example))
    return found


@cache
def endpoints() -> list[Endpoint]:
    of_tasks = ((task, part(f"deployments.router.routes.{task}", "router")) for task in TASKS)
    found = [one for task, router in of_tasks if router is not None for one in endpoints_of(task, router)]
    common = [one for module in (tokens, estimate) for one in endpoints_of(embeddings.TASK, module.router)]
    return [*found, *common]


def each(wanted: Any = lambda one: True) -> pytest.MarkDecorator:
    """A test for each endpoint of a kind."""
    return pytest.mark.parametrize("endpoint", list(filter(wanted, endpoints())), ids=lambda one: one.path)
