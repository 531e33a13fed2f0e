"""How the bodies of requests become calls of models: for those who want to know of a request what it would take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.router.wire import validated
from models.errors import InvalidRequest
from models.specs import ModelSpec
from models.tasks.methods import Ask
from models.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Way:
    """
    Attributes:
        example: what stands in for fields that a body leaves out.
        body: the type of the endpoint's bodies.
        ask: the call that such a body becomes. Raises InvalidRequest.
    """

    example: Mapping[str, Any]
    body: type[Any]
    ask: Callable[[Any, ModelSpec], Ask[Any, Any]]


WAYS: dict[str, list[Way]] = defaultdict(list)


def asks(task: Task[Any], example: Mapping[str, Any], body: type[Any], ask: Callable[[Any, ModelSpec], Any]) -> None:
    """Tell of an endpoint of a task. Of several, the first one that can read a body is taken."""
    WAYS[task.name].append(Way(example, body, ask))


def ask_of(spec: ModelSpec, sent: Mapping[str, Any]) -> Ask[Any, Any] | None:
    """The call that a body would become; None if the task has no endpoint.

    Raises:
        InvalidRequest: no endpoint of the task takes it.
    """
    refused: InvalidRequest | None = None
    for way in WAYS[spec.task.name]:
        try:
            return way.ask(validated({**way.example, **sent, "model": spec.id}, way.body, strict=True), spec)
        except InvalidRequest as error:
            refused = refused or error
    if refused is not None:
        raise refused
    return None
