"""The starter cluster as the tests of this group see it."""

import contextlib
import copy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from otlp_collector import Collector

from medley import cluster as local

ROOT = Path(__file__).parents[2]
MEDLEY = [str(Path(sys.executable).parent / "medley")]
CHAT, EMBEDDINGS = "smollm2-135m-instruct", "all-minilm-l6-v2"


@dataclass
class Cluster:
    """The running cluster, and the document it was started with."""

    address: str
    document: dict[str, Any]
    folder: Path
    collector: Collector

    def deploy(self, document: dict[str, Any]) -> None:
        """Bring the cluster to another document and wait until it is ready."""
        run([*MEDLEY, "deploy", str(self.written(document))])

    @contextlib.contextmanager
    def deployed(self, document: dict[str, Any]) -> Iterator[None]:
        """The cluster with another document, and afterwards with its own again."""
        self.deploy(document)
        try:
            yield
        finally:
            self.deploy(self.document)

    def written(self, document: dict[str, Any]) -> Path:
        """The document as a file."""
        config = self.folder / "changed.yaml"
        config.write_text(yaml.safe_dump(document, sort_keys=False))
        return config

    def without(self, app: str) -> dict[str, Any]:
        document = copy.deepcopy(self.document)
        document["applications"] = [entry for entry in document["applications"] if entry["name"] != app]
        return document

    def with_args(self, app: str, **args: str | None) -> dict[str, Any]:
        document = copy.deepcopy(self.document)
        for entry in document["applications"]:
            if entry["name"] == app:
                entry["args"] |= args
        return document

    def pids(self) -> dict[str, list[int]]:
        return local.pids_by_application()

    def replica(self, app: str) -> psutil.Process:
        (pid,) = self.pids()[app]
        return psutil.Process(pid)


def run(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
