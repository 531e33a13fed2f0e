"""What is asked of each task, and whether an answer is right. A task has a module of its name here, with a `KIND`; a
task without one is asked for what its model gives as an example."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec

from loadtest.example import EXAMPLE
from loadtest.kind import Kind, Model


@cache
def kind_of(task: str) -> Kind:
    """The kind of requests that load test a task."""
    module = f"loadtest.tasks.{task}"
    return import_module(module).KIND if task.isidentifier() and find_spec(module) else EXAMPLE


def can_be_asked(model: Model) -> bool:
    """Whether there are requests for it: its task has a kind of its own, or the server gives an example."""
    return kind_of(model.task) is not EXAMPLE or bool(model.card.get("example"))
