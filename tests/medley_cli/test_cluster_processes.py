"""Which processes are the cluster's, and that none of them outlives `medley down`. Real processes, and no Ray."""

import contextlib
import os
import signal
import subprocess
import sys

import psutil
import pytest
from patience import wait_until

from medley.local import cluster
from medley.local.home import CLUSTER_VARIABLE

WAITS = "import time; time.sleep(1000)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); {WAITS}"
# As Ray's agents: the child has lost the mark.
UNMARKED = f"subprocess.Popen([sys.executable, '-c', {WAITS!r}], env={{}})"
WITH_CHILD = f"import subprocess, sys; print({UNMARKED}.pid, flush=True); {WAITS}"


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path))
    started = []

    def start(code: str, mark: str = str(tmp_path)) -> subprocess.Popen[str]:
        environment = {**os.environ, CLUSTER_VARIABLE: mark}
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started
        process.communicate()


def test_the_clusters_processes_are_those_with_its_mark_and_what_they_started(start):
    marked, stranger, parent = start(WAITS), start(WAITS, mark="/another/home"), start(WITH_CHILD)
    child = int(parent.stdout.readline())
    assert {process.pid for process in cluster.processes()} == {marked.pid, parent.pid, child}
    assert cluster.stop() == 3
    assert stranger.poll() is None
    assert cluster.processes() == []
    wait_until(lambda: not psutil.pid_exists(child) or not cluster.lives(psutil.Process(child)), "the child to end")


def test_who_does_not_end_when_asked_is_ended(start, monkeypatch):
    monkeypatch.setattr(cluster, "TERMINATE_PATIENCE_S", 0.1)
    stubborn = start(STUBBORN)
    assert stubborn.stdout.readline() == "up\n"
    assert cluster.stop() == 1
    assert stubborn.wait() == -signal.SIGKILL


def test_who_cannot_be_ended_is_named(start, monkeypatch):
    monkeypatch.setattr(cluster, "end", lambda *_: None)
    process = start(WAITS)
    with pytest.raises(cluster.ClusterError, match=str(process.pid)):
        cluster.stop()


def test_where_nothing_runs_nothing_is_stopped(start):
    assert cluster.stop() == 0
