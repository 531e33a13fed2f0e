"""A load test that goes on while something fails, and what became of its requests: one row of the table of failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kube_service import Service
from namespaces import until
from ray_nodes import MODEL, ROOT, Replica

from loadtest import records
from loadtest.records import Record

# Longer than a node and a replica take to start: what waits for them is not lost.
PATIENCE_S = 120


class Load:
    """Embeddings in an open loop, from now on."""

    def __init__(self, folder: Path, service: Service, rate: float, seconds: float):
        self.report = folder / "report"
        scenario = folder / "failure.yaml"
        rows = {
            "proves": "A failure loses nothing that was not on the node.",
            "stages": [{"rate": rate, "seconds": seconds}],
            "parts": [{"task": "embeddings", "model": MODEL, "options": {"max_inputs": 1}, "good": 0.5}],
            "counters": [],
            "refusals_count": False,
            "drain_s": PATIENCE_S,
            "warm_up": 0,
        }
        scenario.write_text(json.dumps(rows))
        command = [sys.executable, "-m", "loadtest", "run", str(scenario), "--host", service.address, "--report"]
        self._output = (folder / "loadtest.txt").open("w+")
        self._process = subprocess.Popen(
            [*command, str(self.report)], cwd=ROOT, stdout=self._output, stderr=subprocess.STDOUT, env=dict(os.environ)
        )
        self._service = service
        self._seconds = seconds

    def wait_until_under_way(self) -> None:
        """Locust takes a few seconds to start. Raises TimeoutError."""
        sent = self._service.posted
        until(lambda: self._service.posted > sent or self._process.poll() is not None, 60)
        assert self._process.poll() is None, self.output()

    def attempts(self) -> list[Record]:
        """Wait for the end."""
        try:
            code = self._process.wait(self._seconds + PATIENCE_S + 60)
        finally:
            self.stop()
        assert code in (0, 1, 3), self.output()
        return list(records.read(self.report / "records.jsonl"))

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def output(self) -> str:
        self._output.seek(0)
        return self._output.read()[-3000:]


@dataclass
class Row:
    """
    Attributes:
        failed: neither answered nor refused. refused: 429 or 503 with their Retry-After.
        events: of the Service; see kube_service.Service.
        slowest_s: the longest that an answered request took.
        recovery_s: from the failure until everything was as before.
        before, after: address and process id of the model's replicas.
        facts: what else the case has to tell, by name.
    """

    case: str
    requests: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0
    why: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    recovery_s: float | None = None
    before: list[Replica] = field(default_factory=list)
    after: list[Replica] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def count(self, attempts: list[Record], events: Counter[str]) -> None:
        failed = [one for one in attempts if not one.answered and not one.refused]
        refused = [one for one in attempts if one.refused]
        self.requests = len(attempts)
        self.answered = sum(one.answered for one in attempts)
        self.failed, self.refused = len(failed), len(refused)
        self.why = dict(Counter(one.why or "no answer" for one in [*failed, *refused]))
        self.events = dict(events)
        took = [one.last - one.due for one in attempts if one.answered and one.last is not None]
        self.slowest_s = round(max(took, default=0.0), 2)

    def document(self) -> dict[str, Any]:
        return asdict(self)
