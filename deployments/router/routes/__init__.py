"""One module for each task that has an endpoint, named after it, with a `router` and an `EXAMPLE`; and those of no task
in particular."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from deployments.router.endpoint import Example
from models.registry import part
from models.tasks import TASKS
from models.tasks.task import Task


def routers_of_tasks() -> list[APIRouter]:
    """The endpoints of every task that has some, in the order of the tasks.

    Raises:
        ImportError: a task's module has no `router`.
    """
    found = (part(f"deployments.router.routes.{task}", "router") for task in TASKS)
    return [router for router in found if router is not None]


def example_of(task: Task[Any]) -> Example | None:
    """A task's EXAMPLE: a request that every model of the task can answer. None for a task without an endpoint.

    Raises:
        ImportError: the task's module has no `EXAMPLE`.
    """
    return part(f"deployments.router.routes.{task}", "EXAMPLE")
