"""Small facts about replicas that every process of the cluster can read: the progress of a start, why it failed, or
what is asked of it.

Ray's key-value store keeps them, so they outlive the process that wrote them. A fact is a small JSON object.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

# Keys. If a replica dies while it starts, its unfinished progress still says in which phase.
PROGRESS = "progress/{app}/{replica}"
FAILURE = "failure/{app}"
COLD_START = "cold_start/{app}/{variant}"
# What is asked of a replica, about once a second while it changes. "asked": work-seconds a second that were newly asked
# of it; "inside_s": work-seconds of the requests inside; "pending_s": of refused ones that will come back; "at": Unix
# time. Work-seconds are seconds of a fully used replica.
LOAD = "load/{app}/{replica}"
# What a replica of this variant needs for a request alone. "unit": in which sizes are counted; "sizes": for some of
# them, the smallest first, [size, seconds to the first piece, for each piece after it, and in all].
PACE = "pace/{app}/{variant}"
# "key": that of the digests of requests, in hex, which routers must share to know one another's.
DIGESTS = "digests"


class Board(Protocol):
    def put(self, key: str, fact: dict[str, Any]) -> None: ...

    def claim(self, key: str, fact: dict[str, Any]) -> dict[str, Any]:
        """Put a fact unless there is one. Returns the one that is there then, the same for all who call this."""
        ...

    def get(self, key: str) -> dict[str, Any] | None: ...

    def remove(self, key: str) -> None: ...

    def all(self) -> dict[str, dict[str, Any]]:
        """All facts by key."""
        ...


class MemoryBoard:
    """A board in this process, for tests."""

    def __init__(self):
        self.facts: dict[str, dict[str, Any]] = {}

    def put(self, key: str, fact: dict[str, Any]) -> None:
        self.facts[key] = json.loads(json.dumps(fact))

    def claim(self, key: str, fact: dict[str, Any]) -> dict[str, Any]:
        return self.facts.setdefault(key, fact)

    def get(self, key: str) -> dict[str, Any] | None:
        return self.facts.get(key)

    def remove(self, key: str) -> None:
        self.facts.pop(key, None)

    def all(self) -> dict[str, dict[str, Any]]:
        return dict(self.facts)
