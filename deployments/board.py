"""Small facts about replicas that every process of the cluster can read: how far one has come, why one failed.

Kept in Ray's own key-value store, so they outlive the process that wrote them. A fact is a small JSON object.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

# Keys. A progress that is not done and whose replica is gone says in which phase that replica died.
PROGRESS = "progress/{app}/{replica}"
FAILURE = "failure/{app}"
COLD_START = "cold_start/{app}/{variant}"


class Board(Protocol):
    def put(self, key: str, fact: dict[str, Any]) -> None: ...

    def get(self, key: str) -> dict[str, Any] | None: ...

    def remove(self, key: str) -> None: ...

    def all(self) -> dict[str, dict[str, Any]]:
        """Every fact by its key."""
        ...


class MemoryBoard:
    """For tests: a board in this process."""

    def __init__(self):
        self.facts: dict[str, dict[str, Any]] = {}

    def put(self, key: str, fact: dict[str, Any]) -> None:
        self.facts[key] = json.loads(json.dumps(fact))

    def get(self, key: str) -> dict[str, Any] | None:
        return self.facts.get(key)

    def remove(self, key: str) -> None:
        self.facts.pop(key, None)

    def all(self) -> dict[str, dict[str, Any]]:
        return dict(self.facts)
