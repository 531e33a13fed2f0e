"""HAProxy as our launcher runs it: Serve's own configuration, changed, in a real HAProxy before a small server."""

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from patience import wait_until
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from deployments import haproxy

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Router(http.server.BaseHTTPRequestHandler):
    """Tells which headers came."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        time.sleep(float(self.headers.get("X-Takes", "0")))
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def router():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Router)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


class Manager:
    """Serve's manager as far as HAProxy sees it: writes the configuration and starts the program."""

    def __init__(self, folder: Path, router: int | None, host: str = "127.0.0.1"):
        self.port, self.folder = free_port(), folder
        folder.mkdir()
        servers = [ServerConfig(name="SERVE_REPLICA_router", host="127.0.0.1", port=router)] if router else []
        backend = BackendConfig(name="http-router", path_prefix="/", app_name="router", servers=servers)
        fallback = ServerConfig(name="SERVE_PROXY_ACTOR-fallback", host="127.0.0.1", port=9)
        backend.fallback_server = fallback if router else None
        self.api = HAProxyApi(
            HAProxyConfig(
                http_options=HTTPOptions(host=host, port=self.port),
                is_head=True,
                socket_path=str(folder / "admin.sock"),
                server_state_base=str(folder),
                server_state_file=str(folder / "server-state"),
                metrics_socket_path=str(folder / "metrics.sock"),
                metrics_port=free_port(),
                stats_port=free_port(),
            ),
            {"http-router": backend} if router else {},
            str(folder / "haproxy.cfg"),
        )
        self.config = folder / "haproxy.cfg"
        self.write()

    def write(self) -> str:
        self.api._generate_config_file_internal()
        return self.config.read_text()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Through a process of its own, which the watcher may kill."""
        actor = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                actor,
                sys.executable,
                "-m",
                "deployments.haproxy",
                "-db",
                "-f",
                str(self.config),
                "-dR",
                *arguments,
            ],
            cwd=ROOT,
            env={**os.environ, "MEDLEY_TEST_EDGE": str(self.folder), "RAY_SERVE_HAPROXY_BINARY_PATH": "/nowhere"},
            stderr=subprocess.DEVNULL,
        )

    def ask(self, path: str = "/", **headers: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=20)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self.ask().status_code == 200
        return False

    def say(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(data)
            parts = []
            while part := connection.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("MEDLEY_TEST_EDGE") == str(self.folder):
                    found.append(process)
        return found

    def serving(self) -> int:
        return haproxy.marked(self.folder.parent / f"serving-{self.port}.pid") or pytest.fail("nothing serves")


@pytest.fixture
def manager(tmp_path, router):
    made = Manager(tmp_path / "node", router)
    yield made
    for _ in range(2):  # a watcher may have started another one meanwhile
        for process in made.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()


@pytest.fixture
def running(manager):
    process = manager.start()
    wait_until(manager.answers, "HAProxy to answer")
    yield manager
    process.kill()
    process.wait()


@pytest.mark.parametrize("routers", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_serves_configuration_is_understood_whole(tmp_path, router, routers, host):
    """A new version of Ray may write another one. It must not go live half changed."""
    made = Manager(tmp_path / "node", router if routers else None, host)
    text = haproxy.hardened(made.config.read_text(), haproxy.error_pages(made.folder))
    made.config.write_text(text)
    command = [haproxy.real_binary(), "-c", "-f", made.config]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "mode 666" not in text
    assert "timeout http-request 10s" in text
    assert "timeout client 60s" in text
    open_to_all = re.findall(r"^ +bind (?:\*|0\.0\.0\.0)?:(\d+)$", text, re.MULTILINE)
    assert len(open_to_all) == (0 if host == "127.0.0.1" else 2)  # the API and the metrics


@pytest.mark.parametrize("line", [" mode 666 level admin", "    timeout client 3600s", "frontend http_frontend"])
def test_a_configuration_that_is_not_known_is_refused(manager, line):
    with pytest.raises(haproxy.UnknownConfiguration):
        haproxy.hardened(manager.config.read_text().replace(line, ""), haproxy.error_pages(manager.folder))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(
            b"GET /m\xc3\xb6del HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", id="a path that is not ASCII"
        ),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", id="a path that is no text"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: " + b"a" * 17000 + b"\r\n\r\n",
            id="a long header",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            + b"A: 1\r\n" * 99
            + b"B: "
            + b"b" * 50000
            + b"\r\n\r\n",
            id="long",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nBad Name: 1\r\n\r\n", id="a bad name of a header"
        ),
    ],
)
def test_its_own_errors_have_the_form_of_the_api(running, sent):
    head, _, body = running.say(sent).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert b"application/json" in head
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("method", ["BREW", "get", "PROPFIND", "M" * 500])
def test_methods_that_the_server_of_a_router_cannot_read_are_refused_like_others(running, method):
    sent = f"{method} /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    head, _, body = running.say(sent.encode()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nallow: get, head, post," in head.lower()
    assert json.loads(body)["error"]["code"] == "not_found"


def test_a_client_cannot_choose_its_address(running):
    told = running.ask("/", **{"X-Medley-Client": "10.0.0.1"}).json()
    assert told["x-medley-client"] == "127.0.0.1"


def test_without_a_router_requests_are_refused_with_a_time_to_retry(tmp_path):
    made = Manager(tmp_path / "node", None)
    process = made.start()
    try:
        wait_until(lambda: made.config.read_text().count("mode 600"), "the configuration to be changed")
        wait_until(lambda: haproxy.Edge(0, made.config).ask("show info"), "HAProxy to run")
        answer = made.ask("/v1/models")
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["code"] == "unavailable"
    finally:
        for one in made.processes():
            one.kill()
        process.wait()


@pytest.fixture
def impatient(manager, monkeypatch):
    """HAProxy with limits of a second, without launcher and watcher."""
    monkeypatch.setattr(haproxy, "HEAD_S", 1)
    monkeypatch.setattr(haproxy, "SILENT_CLIENT_S", 1)
    manager.config.write_text(haproxy.hardened(manager.config.read_text(), haproxy.error_pages(manager.folder)))
    command = [haproxy.real_binary(), "-db", "-f", str(manager.config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(manager.answers, "HAProxy to answer")
    yield manager
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nAuthoriz", id="half a header"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234", id="half a body"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_who_stops_sending_is_let_go(impatient, sent):
    assert b"html" not in impatient.say(sent)  # until the connection is closed


def test_who_waits_for_a_long_answer_is_not_let_go(impatient):
    assert impatient.ask("/", **{"X-Takes": "3"}).status_code == 200


def test_its_sockets_are_for_its_owner_alone(running):
    assert (running.folder / "admin.sock").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_another_takes_the_place_of_one_that_dies_or_stops(running, harm):
    first = running.serving()
    os.kill(first, harm)
    wait_until(lambda: running.serving() != first and running.answers(), "another HAProxy to answer")
    second = running.serving()
    os.kill(second, harm)  # and again, by the same watcher
    wait_until(lambda: running.serving() not in (first, second) and running.answers(), "a third HAProxy to answer")
    assert os.getsid(running.serving()) == os.getsid(0)


def test_it_outlives_its_manager_and_is_taken_over_by_the_next(running):
    """Ray ends the process group of a manager that died."""
    before = running.serving()
    assert os.getpgid(before) != os.getpgid(0)
    # Linux may share cores between sessions first. Then an engine would let others go first, but not HAProxy.
    assert os.getsid(before) == os.getsid(0)
    running.write()
    refused, over = [], threading.Event()

    def keep_asking():
        while not over.is_set():
            refused.extend([] if running.answers() else ["once"])

    clients = [threading.Thread(target=keep_asking) for _ in range(4)]
    for client in clients:
        client.start()
    process = running.start()  # of a manager that knows nothing of the HAProxy before
    try:
        wait_until(lambda: running.serving() != before and running.answers(), "the new HAProxy to answer")
        wait_until(lambda: not haproxy.is_haproxy(before), "the old HAProxy to end")
        over.set()
        for client in clients:
            client.join()
        assert refused == []
        wait_until(lambda: len([one for one in running.processes() if "watch" in one.cmdline()]) == 1, "one watcher")
    finally:
        over.set()
        process.kill()
        process.wait()


def test_one_that_cannot_start_leaves_the_one_before_in_place(running):
    before = running.serving()
    running.config.write_text(running.write().replace("balance leastconn", "balance nonsense"))
    process = running.start("-sf", str(before))
    assert process.wait(60) != 0
    wait_until(lambda: running.serving() == before, "the one before to be the one that serves")
    assert haproxy.is_haproxy(before)
    assert running.answers()
    os.kill(before, signal.SIGKILL)
    running.config.write_text(haproxy.hardened(running.write(), haproxy.error_pages(running.folder)))
    wait_until(lambda: running.serving() != before and running.answers(), "another HAProxy to answer")


def test_one_that_nobody_knows_of_is_taken_over_too(running):
    """Else the next one would find its port taken, for ever."""
    known = running.serving()
    command = [haproxy.real_binary(), "-db", "-f", str(running.config), "-sf", str(known)]
    environment = {**os.environ, "MEDLEY_TEST_EDGE": str(running.folder)}
    unknown = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: not haproxy.is_haproxy(known), "the one that is known to end")
        wait_until(lambda: unknown.poll() is not None, "the unknown one to end")
        wait_until(lambda: haproxy.is_haproxy(running.serving()) and running.answers(), "another HAProxy to answer")
    finally:
        unknown.kill()
        unknown.wait()


def test_a_launcher_that_is_slow_to_become_haproxy_is_waited_for(manager):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as launcher:
        edge = haproxy.Edge(launcher.pid, manager.config)
        assert edge.works()
        os.kill(launcher.pid, signal.SIGSTOP)
        wait_until(lambda: not edge.works(), "it to be found stopped")
        launcher.kill()
    assert not edge.works()


def test_an_id_that_is_used_again_is_not_taken_for_the_same_process(manager):
    edge = haproxy.Edge(os.getpid(), manager.config)
    assert edge.works()
    edge.born = "1"
    assert not edge.works()


def test_the_watcher_knows_a_router_that_hangs_from_one_that_is_gone():
    statistics = (
        "# pxname,svname,status,check_status\n"
        "http-router,FRONTEND,OPEN,\n"
        "http-router,one,DOWN,L7TOUT\n"
        "http-router,two,UP,* L7OK\n"
        "http-router,SERVE_PROXY_ACTOR-fallback,UP 1/2,L7OK\n"
    )
    assert haproxy.servers_in(statistics) == [
        ("http-router", "one", "DOWN", "L7TOUT"),
        ("http-router", "two", "UP", "L7OK"),
        ("http-router", "SERVE_PROXY_ACTOR-fallback", "UP", "L7OK"),
    ]


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        (("DOWN", "L7TOUT"), ("DOWN", "L4CON"), "disable"),
        (("DOWN", "L4CON"), ("DOWN", "L4CON"), None),
        (("DOWN", "L7TOUT"), ("UP", "L7OK"), None),
    ],
)
def test_requests_wait_for_a_new_router_and_not_for_one_that_hangs(manager, monkeypatch, one, two, said):
    edge, asked = haproxy.Edge(0, manager.config), []
    monkeypatch.setattr(edge, "ask", asked.append)
    fallback = ("http-router", "SERVE_PROXY_ACTOR-1", "UP", "L7OK")
    edge.refuse_while_a_router_hangs([("http-router", "one", *one), ("http-router", "two", *two), fallback])
    ended = [
        f"shutdown sessions server http-router/{name}"
        for name, state in (("one", one), ("two", two))
        if "L7TOUT" in state
    ]
    assert asked == [*ended, *([f"{said} server http-router/SERVE_PROXY_ACTOR-1"] if said else [])]
    asked.clear()
    edge.refuse_while_a_router_hangs([("http-router", "one", "UP", "L7OK"), fallback])
    assert asked == (["enable server http-router/SERVE_PROXY_ACTOR-1"] if said else [])
