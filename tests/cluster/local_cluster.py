"""A real cluster on this machine, started, changed and ended by the command line, as a user does it."""

import contextlib
import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from otlp_collector import Collector
from patience import patience

from medley.change.serve_rest import read_live
from medley.local import cluster as local
from medley.look.live import replicas_of

ROOT = Path(__file__).parents[2]
MEDLEY = [str(Path(sys.executable).parent / "medley")]
CHAT, EMBEDDINGS = "smollm2-135m-instruct", "all-minilm-l6-v2"

# A start or a deploy takes one minute on an idle machine of two cores; a client's request, seconds.
COMMAND_S, REQUEST_S = 600.0, 300.0


@dataclass
class Cluster:
    """The running cluster, and the document it was started with."""

    address: str
    document: dict[str, Any]
    folder: Path
    collector: Collector

    def deploy(self, document: dict[str, Any]) -> str:
        """Bring the cluster to another document and wait until it is ready. Returns what the command said."""
        return run(
            [*MEDLEY, "deploy", str(self.written(document)), "--yes", "--patience", f"{patience(COMMAND_S):.0f}"]
        )

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
        application(document, app)["args"] |= args
        return document

    def pids(self) -> dict[str, list[int]]:
        """Process ids of the replicas that take requests, by application."""
        return {
            name: sorted(one["pid"] for one in replicas_of(app) if one.get("pid") and one["state"] == "RUNNING")
            for name, app in applications().items()
        }

    def replica(self, app: str) -> psutil.Process:
        (pid,) = self.pids()[app]
        return psutil.Process(pid)


def applications() -> dict[str, dict[str, Any]]:
    """What Serve says of every application. Empty while Serve does not answer yet."""
    with contextlib.suppress(httpx.HTTPError), local.dashboard() as serve:
        return read_live(serve).get("applications", {})
    return {}


def starter(promises: str | None) -> dict[str, Any]:
    """The starter cluster's document.

    Args:
        promises: the profile that the router admits by, or None. Where admission is not what is tested, one that a slow
            machine keeps: by `cpu` its clients may be told to come back.
    """
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    application(document, "router")["args"] |= {"promises": promises}
    return document


def application(document: dict[str, Any], name: str) -> dict[str, Any]:
    (entry,) = [one for one in document["applications"] if one["name"] == name]
    return entry


@contextlib.contextmanager
def running(document: dict[str, Any], folder: Path, **environment: str) -> Iterator[Cluster]:
    """A cluster of this document, which is ended whatever happens.

    Args:
        folder: for the files that it is started with and changed by.
        environment: of its processes, beside ours.
    """
    assert not local.processes(), "a cluster is running already: `make stop` ends it"
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump(document, sort_keys=False))
    collector = Collector()
    try:
        words = [*MEDLEY, "up", str(config), "--patience", f"{patience(COMMAND_S):.0f}"]
        print(run(words, env={**os.environ, **collector.environment, **environment}))
        yield Cluster("http://127.0.0.1:8000", document, folder, collector)
    finally:
        try:
            end()
        finally:
            collector.close()


def end() -> None:
    """`medley down`, after which not one process of the cluster lives, by their ids. What they started is found here,
    too: `down` does not miss what it does not know of."""
    members = {*local.processes()}
    for process in list(members):
        with contextlib.suppress(psutil.Error):
            members.update(process.children(recursive=True))
    run([*MEDLEY, "down"])
    left = [(process.pid, " ".join(process.cmdline())) for process in members if local.lives(process)]
    assert not left, f"these outlived the cluster: {left}"
    assert not local.processes(), "something of the cluster was started while it ended"


def run(command: list[str], **options: Any) -> str:
    """What a command said that succeeded."""
    done = finished(command, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def finished(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=patience(2 * COMMAND_S), **options
    )
