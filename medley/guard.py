"""Keeps Ray running on this machine: `python -m medley.guard`, which `medley up` starts and `medley down` ends.

Nobody else watches the processes of Ray's head. Its control plane (GCS) and its dashboard are started again as they
were: the control plane keeps its state on disk, and nothing that serves notices. If the raylet dies, all models on this
machine die with it. Then Ray is started anew, with the last document that went live. HAProxy runs on meanwhile, and
refuses requests with a Retry-After.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field

import psutil

from medley.local import cluster
from medley.local.run_folder import run_folder

logger = logging.getLogger("medley.guard")

LOOK_S = 0.5
# A program that ends this often within a minute is not started again alone; Ray is started anew.
MOST_STARTS = 3
# What starts anew may fail while a dead cluster still holds its ports.
AGAIN_S = 10.0
PATIENCE_S = 900.0
# Found in the command line of a process of the head.
RAYLET = "/raylet/raylet"
PROGRAMS = (
    "/gcs_server",
    "/ray/dashboard/dashboard.py",
    "/ray/autoscaler/_private/monitor.py",  # says what is free
    "ray.util.client.server",
)
# Processes that outlive Ray: this one, and HAProxy with its watcher.
STAYING = (cluster.GUARD, "/haproxy.py", "/haproxy")


@dataclass
class Program:
    """A process of the head, and what it takes to start it again."""

    process: psutil.Process
    command: list[str]
    environment: dict[str, str]
    folder: str
    starts: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, process: psutil.Process) -> Program:
        return cls(process, process.cmdline(), process.environ(), process.cwd())

    def start_again(self) -> bool:
        """Start it as it was. False if that has been tried too often."""
        now = time.monotonic()
        self.starts = [*(start for start in self.starts if now - start < 60), now]
        if len(self.starts) > MOST_STARTS:
            return False
        with (run_folder() / "guard.log").open("ab") as output:
            started = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.process = psutil.Process(started.pid)
        return True


def start(cpus: int | None) -> None:
    """Start the guard of the cluster that runs, apart from this process.

    Args:
        cpus: CPUs that Ray may use; None is all of this machine's.
    """
    with (run_folder() / "guard.log").open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", cluster.GUARD, *([] if cpus is None else [str(cpus)])],
            env=cluster.cluster_environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def guard(cpus: int | None) -> None:
    """Look after the head's processes, for ever."""
    raylet, programs = head()
    # Systems clean /tmp of what is old, and leave out what is locked: tmpfiles.d(5).
    fcntl.flock(os.open(run_folder(), os.O_RDONLY), fcntl.LOCK_SH)
    while True:
        time.sleep(LOOK_S)
        if not look(raylet, programs):
            logger.warning("Ray cannot go on; it starts anew")
            start_ray_anew(cpus)
            raylet, programs = head()


def look(raylet: psutil.Process, programs: list[Program]) -> bool:
    """Start programs again that have ended. False if Ray itself must be started anew."""
    reap()
    for program in programs:
        if not cluster.lives(program.process):
            again = program.start_again()
            logger.warning("%s ended; started again: %s", program.command[0], again)
            if not again:
                return False
    return cluster.lives(raylet)


def head() -> tuple[psutil.Process, list[Program]]:
    """The raylet, and the other programs of the head."""
    raylet, programs = None, []
    for process in cluster.processes():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline()[:4])
            if process.cmdline()[0].endswith(RAYLET):
                raylet = process
            elif any(name in words for name in PROGRAMS) and "forkserver" not in words:
                programs.append(Program.of(process))
    if raylet is None:
        raise SystemExit("There is no raylet to guard.")
    return raylet, programs


def start_ray_anew(cpus: int | None) -> None:
    """Start Ray with the last document that went live, until that succeeds."""
    from medley.change import history
    from medley.change.deploy import start as deploy

    while True:
        cluster.end([process for process in cluster.processes() if not stays(process)], psutil.Process.kill, 10)
        try:
            cluster.start_ray(cpus)
            entry = history.latest_good()
            if entry is None:
                raise SystemExit("No document has gone live, so there is nothing to serve.")
            deploy(history.config_of(entry), PATIENCE_S)
            logger.warning("Ray runs again, with %s", entry)
            return
        except cluster.ClusterError as error:
            logger.error("Ray did not start: %s", error)
            time.sleep(AGAIN_S)


def stays(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.pid == os.getpid() or any(word.endswith(STAYING) for word in process.cmdline()[:3])
    return False


def reap() -> None:
    """Take note of children that have ended, so that they are not zombies."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main(arguments: list[str]) -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    guard(int(arguments[0]) if arguments else None)


if __name__ == "__main__":
    main(sys.argv[1:])
