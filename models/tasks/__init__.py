"""What models do. Each task is one contract, the `TASK` of the module with its name. `NAMES` lists them.

The other parts of a task are found by its name, too:

    models.engines.<task>_<backend>     Engine          a backend without such a module is not offered
    deployments.servers.<task>          Server          or <task>_<backend>; without one, that of servers/batch.py
    deployments.router.routes.<task>    router, EXAMPLE without one, its models have no endpoint
    workshop.evaluation.<task>          EVALUATION      without one, its variants are not compared
    loadtest.tasks.<task>               KIND            without one, load tests repeat the EXAMPLE
    models/catalog/<task>.yaml                          its models
    slo.yaml                                            a line under `tasks`; without one, the profile's default
"""

from importlib import import_module
from typing import Any

from models.tasks.task import Task

NAMES = ("chat", "embeddings", "images", "upscaling", "styles")

TASKS: tuple[Task[Any], ...] = tuple(import_module(f"models.tasks.{name}").TASK for name in NAMES)

BY_NAME = {task.name: task for task in TASKS}


def task_named(value: object) -> Task[Any] | None:
    """The task that a file names; None for anything else that may stand there."""
    return BY_NAME.get(value) if isinstance(value, str) else None
