"""The load test as Locust runs it, in this process and in virtual time, against fake servers that are in it too.

Real are `loadtest` with its locustfile, Locust's environment, runner and users, gevent and the HTTP client down to the
bytes on its sockets. Not real are the clock, the sockets' other ends, and what a process costs."""

import contextlib
import io
import os
from argparse import ArgumentParser
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import gevent
import msgpack
from fake_server import Server
from gevent import socket
from gevent.pool import Group
from geventhttpclient.connectionpool import ConnectionPool
from runs import Run, written
from virtual_gevent import virtual_time

with mock.patch.dict(os.environ, LOCUST_SKIP_MONKEY_PATCH="1"):  # other tests share this process
    import locust
from locust import runners
from locust.argument_parser import get_parser
from locust.env import Environment
from locust.event import Events

from loadtest import clock, health, locustfile, options, report
from loadtest.report import summary


@dataclass
class World:
    """
    Attributes:
        cpu: cores that the process of the generator uses.
        runners: of each run, Locust's.
    """

    folder: Path
    loop: Any
    servers: dict[str, Server] = field(default_factory=dict)
    cpu: float = 0.1
    runners: list[Any] = field(default_factory=list)
    greenlets: Any = field(default_factory=Group)

    def server(self, **settings):
        """Start one. Its address."""
        name = f"fake-{len(self.servers)}.test"
        self.servers[name] = Server(settings, self.loop.now)
        return f"http://{name}"

    def truth(self, address):
        """What the server did, by request id."""
        return {entry["id"]: entry for entry in self.servers[address.removeprefix("http://")].entries}

    def connect(self, pool):
        """In place of the pool's TCP connection."""
        server = self.servers.get(pool._connection_host)
        if server is None:
            raise ConnectionRefusedError(f"nobody is at {pool._connection_host}")
        ours, theirs = socket.socketpair()
        ours.settimeout(pool.network_timeout)
        self.greenlets.spawn(server.connected, theirs)
        return ours

    def stall(self, seconds):
        """The generator's process is stopped so long, as a busy machine does it: time goes on, and it sees nothing."""
        self.loop.moment += seconds

    def harness(self, address, scenario, *words, slo=None):
        """`locust -f loadtest/locustfile.py` with a scenario given as a name or a document."""
        folder, given = written(self.folder, address, scenario, slo)
        code, output = self.locust(*given, *words)
        return Run(code, folder, output)

    def locust(self, *words):
        """As `python -m locust` goes about it with these words. Its exit code and output."""
        events = Events()
        events.init, events.init_command_line_parser = locust.events.init, locust.events.init_command_line_parser
        given = get_parser().parse_args(list(words))
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            environment = Environment(
                user_classes=[locustfile.Sending], shape_class=locustfile.Shape(), events=events, host=given.host,
                parsed_options=given,
            )  # fmt: skip
            runner = environment.create_local_runner()
            self.runners.append(runner)
            events.init.fire(environment=environment, runner=runner, web_ui=None)
            runner.start_shape()
            runner.shape_greenlet.join()
            runner.quit()
        assert not runner.exceptions, runner.exceptions
        code = environment.process_exit_code
        return code if code is not None else int(bool(runner.errors)), out.getvalue()

    def instead_of_processes(self, command, **_):
        """For `subprocess.run` of Locust."""
        code, output = self.locust(*command[command.index("--host") :])
        print(output)
        return SimpleNamespace(returncode=code)


def workers(world, count, address, scenario, dead=()):
    """A run of one master and so many workers, in place of Locust's processes and the messages between them.

    Args:
        dead: numbers of workers that begin to send and of which nothing comes back.
    """
    folder, words = written(world.folder, address, scenario)
    master, parts = SimpleNamespace(worker_count=count), []
    environment = SimpleNamespace(runner=master, parsed_options=parsed(words), process_exit_code=None)
    whole = locustfile.Coordinator(environment)
    for number in range(count):
        worker = SimpleNamespace(worker_index=number, send_message=lambda kind, data: up[kind](packed(data)))
        if number in dead:
            worker.send_message = lambda kind, data: None
        events = SimpleNamespace(request=SimpleNamespace(fire=lambda **_: None))
        parts.append(
            locustfile.Worker(SimpleNamespace(runner=worker, events=events, parsed_options=environment.parsed_options))
        )
    up = {locustfile.RECORDS: whole.take, locustfile.ENDED: whole.ended}
    down = {locustfile.BEGIN: lambda part, data: part.begin.set(data), locustfile.STOP: lambda part, data: part.stop()}
    master.send_message = lambda kind, data: [down[kind](part, packed(data)) for part in parts]
    sending = [gevent.spawn(part.run) for part in parts]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        while whole.tick() is not None:
            gevent.sleep(1)
    gevent.joinall(sending, raise_error=True)
    return Run(environment.process_exit_code, folder, out.getvalue())


def packed(data):
    """As it is after its way between processes."""
    return msgpack.unpackb(msgpack.packb(data))


def parsed(words):
    parser = ArgumentParser()
    options.add_to(parser)
    parser.add_argument("--host")
    return parser.parse_known_args(words)[0]


@contextlib.contextmanager
def world_of(folder, *, pages=False):
    """
    Args:
        pages: draw report.html, half a second each.
    """
    with virtual_time() as loop, contextlib.ExitStack() as stack:
        world = World(folder, loop)
        began = loop.now()
        for where, name, instead in (
            (clock, "now", loop.now),
            (clock, "unix", loop.unix),
            (runners, "time", SimpleNamespace(time=loop.unix)),
            (ConnectionPool, "_create_socket", lambda pool: world.connect(pool)),  # noqa: PLW0108  to be bound
            (health, "own_cpu_s", lambda: world.cpu * (loop.now() - began)),
            (locustfile, "go_first", lambda: None),
            *(
                []
                if pages
                else [(report, "render_page", lambda document, attempts: ""), (summary, "git", lambda: None)]
            ),
        ):
            stack.enter_context(mock.patch.object(where, name, instead))
        yield world
        world.greenlets.kill()
