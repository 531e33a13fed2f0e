"""Serve in this process, as far as the router sees it: applications whose handles queue, refuse, cancel and lose
replicas as Serve's do, and a controller that says what runs. Around it the router as it is deployed, with its real
dispatcher, and real servers of models around fake engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from ray.exceptions import ActorDiedError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME
from ray.serve.exceptions import BackPressureError
from replicas import chat_server, embedding_server, faked, paced, started

from deployments.board import MemoryBoard
from deployments.mailbox import MemoryMailbox
from deployments.metering import MemoryMeter
from deployments.notices import MemoryNotices
from deployments.router import ingress, serve_dispatcher
from deployments.servers import calls
from deployments.settings import RouterArgs
from models.catalog import load_catalog

DOODLE = "doodle"
PROFILE = "cpu"
END = object()
NUMBERS = count()


async def slow_chat(seconds_per_token: float = 0.0) -> Any:
    server = await chat_server()
    server.engine.seconds_per_token = seconds_per_token
    return paced(server, max(1e-4, seconds_per_token))


async def slow_embeddings(seconds: float = 0.0) -> Any:
    server = await embedding_server()
    embed = server.embed

    async def slow(request: Any) -> Any:
        await asyncio.sleep(seconds)
        return await embed(request)

    server.embed = slow
    return paced(server, max(1e-4, seconds))


async def image_server() -> Any:
    server = await started(faked(load_catalog()[DOODLE]))
    server.engine.batches.clear()
    return server


class Replica:
    def __init__(self, name: str, server: Any):
        self.name = name
        self.server = server
        self.calls: set[Call] = set()
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    def die(self, application: Application, known: bool = True) -> None:
        """As with its process: what it worked on is lost, and it is known by nobody any more.

        Args:
            known: the controller has seen it.
        """
        application.replicas.remove(self)
        if known:
            application.listed.remove(self)
        for call in list(self.calls):
            call.lose()


class Application:
    """
    Args:
        places: requests that a replica works on at once. queue: that wait for a place; more are refused.
        lowest: replicas; with 0 it may sleep.
    """

    def __init__(self, serve: LocalServe, name: str, places: int = 64, queue: int = 64, lowest: int = 1):
        self.serve, self.name, self.places, self.queue, self.lowest = serve, name, places, queue, lowest
        self.replicas: list[Replica] = []
        self.listed: list[Replica] = []  # which the controller knows of: it may not know yet of one that died
        self.waiting = 0
        self.state = "RUNNING"  # of its replicas
        self.called: list[str] = []
        self.changed = asyncio.Event()

    @property
    def asked(self) -> list[str]:
        """What was called for a request."""
        return [method for method in self.called if method != "wake"]

    def add(self, server: Any) -> Replica:
        replica = Replica(f"{self.name}-{next(NUMBERS)}", server)
        server.replica, server.end_process = replica.name, lambda: replica.die(self)
        self.replicas.append(replica)
        self.listed.append(replica)
        self.change()
        return replica

    def change(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def place(self, call: Call) -> Replica:
        if self.waiting >= self.queue:
            raise BackPressureError(self.waiting, self.queue)
        self.waiting += 1
        try:
            while not (free := [one for one in self.replicas if len(one.calls) < self.places]):
                await self.changed.wait()
            free[0].calls.add(call)
            return free[0]
        finally:
            self.waiting -= 1

    def details(self) -> dict[str, Any]:
        """As the controller tells of it."""
        replicas = [
            {
                "replica_id": one.name,
                "actor_id": one.name,
                "actor_name": one.name,
                "state": self.state,
                "pid": 1,
                "start_time_s": 1.0,
            }
            for one in self.listed
        ]
        config = {"autoscaling_config": {"min_replicas": self.lowest}}
        return {
            "status": "RUNNING" if self.state == "RUNNING" else "DEPLOYING",
            "last_deployed_time_s": 1.0,
            "deployed_app_config": {"args": {"model": self.name, "release": "1"}},
            "deployments": {"model": {"replicas": replicas, "deployment_config": config}},
        }


class Handle:
    def __init__(self, application: Application, method_name: str = "", stream: bool = False):
        self.application, self.method_name, self.stream = application, method_name, stream

    def options(self, *, method_name: str, stream: bool, **_: Any) -> Handle:
        return Handle(self.application, method_name, stream)

    def remote(self, *args: Any) -> Call:
        self.application.called.append(self.method_name)
        return (Stream if self.stream else Call)(self.application, self.method_name, args)


class Call:
    """What a handle's `remote` gives: to be awaited. It goes on by itself until it is cancelled."""

    def __init__(self, application: Application, method: str, args: tuple[Any, ...]):
        self.application = application
        self.lost = False
        self.task = asyncio.ensure_future(self.run(method, args))

    async def run(self, method: str, args: tuple[Any, ...]) -> Any:
        replica = await self.application.place(self)
        try:
            await replica.goes_on.wait()
            return await self.work(getattr(replica.server, method)(*args))
        except asyncio.CancelledError:
            if self.lost:
                error = ActorDiedError()
                error.actor_id = replica.name
                raise error from None
            raise
        finally:
            replica.calls.discard(self)
            self.application.change()

    async def work(self, method: Any) -> Any:
        return await method

    def cancel(self) -> None:
        self.task.cancel()

    def lose(self) -> None:
        self.lost = True
        self.task.cancel()

    def __await__(self) -> Any:
        return self.task.__await__()


class Stream(Call):
    """Its items wait for their reader; the replica does not."""

    def __init__(self, *args: Any):
        self.items: asyncio.Queue[Any] = asyncio.Queue()
        super().__init__(*args)
        self.task.add_done_callback(lambda _: self.items.put_nowait(END))

    async def work(self, method: AsyncGenerator[Any, None]) -> None:
        async with aclosing(method) as items:
            async for item in items:
                self.items.put_nowait(item)

    async def __anext__(self) -> Any:
        item = await self.items.get()
        if item is not END:
            return item
        await self.task  # raises what it ended with
        raise StopAsyncIteration


class LocalServe:
    """
    Attributes:
        error: what the controller answers with instead of what it knows.
        hangs: it does not answer at all.
        asked: how often it was.
    """

    def __init__(self, patch: pytest.MonkeyPatch):
        self.applications: dict[str, Application] = {}
        self.board, self.meter, self.mailbox = MemoryBoard(), MemoryMeter(), MemoryMailbox()
        self.notices = MemoryNotices()
        self.error: Exception | None = None
        self.hangs = False
        self.asked = 0
        self.routers: list[Any] = []
        controller = SimpleNamespace(get_serve_instance_details=SimpleNamespace(remote=self.details))
        named = {SERVE_CONTROLLER_NAME: controller}
        patch.setattr(serve_dispatcher.ray, "get_actor", lambda name, **_: named.get(name) or self.actor(name))
        patch.setattr(serve_dispatcher.ray, "nodes", list)
        patch.setattr(
            serve_dispatcher, "DeploymentHandle", lambda _, application: Handle(self.applications[application])
        )
        patch.setattr(ingress, "RayBoard", lambda: self.board)
        patch.setattr(serve_dispatcher, "RayMailbox", lambda: self.mailbox)
        patch.setattr(ingress, "RayNotices", lambda: self.notices)
        patch.setattr(ingress, "ray_meter", lambda _: self.meter)

    async def details(self) -> dict[str, Any]:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        applications = {name: one.details() for name, one in self.applications.items()}
        return {"applications": {**applications, "router": self.details_of_routers()}}

    def details_of_routers(self) -> dict[str, Any]:
        replicas = [{"replica_id": f"router-{number}", "state": "RUNNING"} for number in range(len(self.routers))]
        return {
            "status": "RUNNING",
            "last_deployed_time_s": 1.0,
            "deployments": {"router": {"replicas": replicas, "deployment_config": {}}},
        }

    def actor(self, name: str) -> Any:
        """A replica as Ray sees it, which may be stopped."""
        (replica,) = [one for of in self.applications.values() for one in of.replicas if one.name == name]

        async def answer() -> int:
            await replica.goes_on.wait()
            return 0

        return SimpleNamespace(get_num_ongoing_requests=SimpleNamespace(remote=answer))

    def deploy(self, name: str, *servers: Any, **options: Any) -> Application:
        self.applications[name] = application = Application(self, name, **options)
        for server in servers:
            application.add(server)
        return application

    async def router(self, **args: Any) -> FastAPI:
        """The router's application as its replica builds it."""
        (written,) = ingress.Router.__bases__[:1]  # without what Serve wraps around it, which asks for a cluster
        router = object.__new__(written)
        await written.__init__(router, RouterArgs(**args))
        self.routers.append(router)
        return await router.__serve_build_asgi_app__()


@pytest.fixture
def local_serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServe]:
    level = ingress.access_log.level
    yield LocalServe(monkeypatch)
    ingress.access_log.setLevel(level)


class Client:
    """One request, driven as a server drives the application; it leaves when `leaves` says so of what it has got."""

    def __init__(self, application: FastAPI, path: str, body: dict[str, Any], leaves: Callable[[bytes], bool]):
        self.application, self.leaves = application, leaves
        self.status, self.got, self.left = 0, b"", asyncio.Event()
        self.incoming = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }

    async def receive(self) -> dict[str, Any]:
        if self.incoming:
            return self.incoming.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self.got += message.get("body", b"")
        if self.leaves(self.got):
            self.left.set()

    async def run(self) -> None:
        await self.application(self.scope, self.receive, self.send)


def wall() -> float:
    """Unix time as the product reads it."""
    return calls.time.time()
