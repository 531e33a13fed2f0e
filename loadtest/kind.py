"""A request of a load test, what came back, and the interface of a kind of requests."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Protocol

from loadtest.arrivals import Arrival


@dataclass(frozen=True, slots=True)
class Model:
    """What `/v1/models` says of a model that is asked."""

    id: str
    task: str
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """
    Attributes:
        body: sent as JSON, or as fields of a form when there are `files`: name -> (file name, content type, bytes).
        leave_after: how many events of a stream the client reads before it goes away.
        wants: what `check` needs to know of the request.
    """

    path: str
    body: dict[str, Any]
    files: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)
    leave_after: int | None = None
    wants: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came. Its content type, and nothing in the request, decides how it was read.

    Attributes:
        documents: the JSON that came: one document, or each event of a stream. None, where bytes came.
        data: the body of an answer that is neither, such as sound.
        content_type: as the server named it, without parameters, in small letters.
    """

    documents: list[dict[str, Any]]
    data: bytes = b""
    content_type: str = "application/json"


class Kind(Protocol):
    def request(self, draw: random.Random, arrival: Arrival, model: Model, options: dict[str, Any]) -> Request:
        """One of the requests that users of this task send; the same for the same `draw`.

        Args:
            options: of the scenario, such as {"max_tokens": 64}.
        """
        ...

    def check(self, request: Request, answer: Answer) -> str:
        """What is wrong with a complete answer, empty if nothing. Cheap, but of meaning as far as it can be."""
        ...

    def amount(self, answer: Answer) -> int:
        """How many of what the task makes are in it, such as tokens or pictures."""
        ...
