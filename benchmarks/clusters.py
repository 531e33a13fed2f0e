"""Where `benchmarks.goodput` sends its traffic, and what else runs on the machine meanwhile."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
ADDRESS = "http://127.0.0.1:8000"
# As nice as engines, and each a session of its own, so that Linux gives it as much of its core as an engine.
BUSY = "import os\nos.nice(10)\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"

# How nice a client is that measures: another machine would give it a core at once.
CLIENT = -15
AUTOGROUP = Path("/proc/self/autogroup")
AUTOGROUP_TRIES = 20


class Cluster:
    """A cluster on this machine, with or without promises. Started when it is first needed.

    Args:
        folder: for its configs. profile: of slo.yaml. document: its config; the router is the last application.
    """

    def __init__(self, folder: Path, profile: str, document: dict[str, Any]):
        self.folder, self.profile, self.document = folder, profile, document
        self.promises: bool | None = None  # of the router that runs; None: nothing runs
        self.routers = 0  # that were started

    def address(self, promises: bool, anew: bool = False) -> str:
        """Bring it to this state. The models run on; only the router is told.

        Args:
            anew: the router forgets what it has seen.
        """
        before, self.promises = self.promises, promises
        if before is None:
            medley("up", str(self._config(promises)))
        elif anew or before != promises:
            self.routers += 1
            medley("deploy", "--yes", str(self._config(promises)))
        return ADDRESS

    def stop(self) -> None:
        if self.promises is not None:
            self.promises = None
            medley("down")

    def _config(self, promises: bool) -> Path:
        document = copy.deepcopy(self.document)
        arguments = document["applications"][-1]["args"]
        arguments |= {"promises": self.profile if promises else None, "release": f"bench-{self.routers}"}
        file = self.folder / f"{'with' if promises else 'without'}.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        return file


class Servers:
    """Servers that run already, at their addresses."""

    def __init__(self, with_promises: str, without: str):
        self.addresses = {True: with_promises, False: without}

    def address(self, promises: bool, anew: bool = False) -> str:
        return self.addresses[promises]

    def stop(self) -> None:
        pass


def starter_config(models: set[str], whole: bool, routers: int) -> dict[str, Any]:
    """serve_config.yaml with these models, whose number of replicas does not change while they are measured.

    Args:
        whole: with the other models, too.
    """
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    router = document["applications"].pop()
    assert router["name"] == "router"
    router["deployments"][0]["num_replicas"] = routers
    for application in document["applications"]:
        scaling = application["deployments"][0]["autoscaling_config"]
        if application["name"] in models:
            scaling |= {"min_replicas": 1, "max_replicas": 1}
    document["applications"] = [one for one in document["applications"] if whole or one["name"] in models]
    document["applications"].append(router)
    return document


def medley(*words: str) -> None:
    subprocess.run([str(BIN / "medley"), *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def busy_cores(wanted: bool) -> Iterator[None]:
    """A busy loop on each core. It ends with this process at the latest."""
    loops: list[subprocess.Popen] = []
    try:
        for core in sorted(os.sched_getaffinity(0)) if wanted else ():
            loops.append(subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True))
            os.sched_setaffinity(loops[-1].pid, {core})
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def preferred() -> Iterator[None]:
    """The client gets a core when it wants one, where that is allowed. What it starts meanwhile would inherit that.

    It does not look for garbage in what was there before: that takes 0.1 s of a slow core, from the servers, too.
    """
    before, of_session = os.getpriority(os.PRIO_PROCESS, 0), session_niceness()
    gc.collect()
    gc.freeze()
    prefer(min(before, CLIENT), min(of_session, CLIENT))
    try:
        yield
    finally:
        prefer(before, of_session)
        gc.unfreeze()


def prefer(niceness: int, of_session: int) -> None:
    """Set how nice this process is to others of its session, and, where Linux shares cores between sessions first
    (sched(7), autogroup), how nice the session is to others. Both may be forbidden; the second may only have to wait,
    since Linux takes one such change in 0.1 s (EAGAIN, which is BlockingIOError)."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
    for _ in range(AUTOGROUP_TRIES if AUTOGROUP.exists() else 0):
        try:
            AUTOGROUP.write_text(f"{of_session}")
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:
            return
        else:
            return


def session_niceness() -> int:
    """How nice this session is to others: the last word of AUTOGROUP. 0 where Linux does not share between sessions;
    then there is no such file, or it is empty."""
    words = AUTOGROUP.read_text().split() if AUTOGROUP.exists() else []
    return int(words[-1]) if words else 0
