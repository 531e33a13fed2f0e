"""What a replica loads, and what it tells Serve of itself: whether it is well, and how long its calls take."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from replicas import chat_server

from deployments.metering import MemoryMeter
from deployments.model import build
from deployments.servers import calls, engine
from deployments.servers.calls import CallContext, CallLog
from deployments.servers.denoising import DenoisingLoop
from deployments.servers.engine import EngineServer
from deployments.servers.pace import Work
from deployments.settings import ModelArgs
from models.catalog import load_catalog
from models.engines.images_fake import Engine as FakeImages
from models.errors import OutOfMemory
from models.tasks.images import Picture

CHAT = load_catalog()["smollm2-135m-instruct"]
OTHERS = [name for name in CHAT.variants if name != CHAT.default_variant]


class Loaded(EngineServer):
    """Loads nothing, and keeps what it was to load."""

    def import_engine(self):
        return SimpleNamespace(load=lambda spec, variant, folder: SimpleNamespace(variant=variant, folder=folder))

    async def warm_up(self):
        pass

    async def chat(self):
        return "text"

    tokenize = wake = chat


def folder_of(variant) -> Path:
    return Path(variant.artifact.name if variant.artifact else "source", variant.backend, str(variant.precision))


@pytest.fixture
def start(monkeypatch):
    replica = SimpleNamespace(replica_id=SimpleNamespace(unique_id="rep"))
    monkeypatch.setattr(engine.serve, "get_replica_context", lambda: replica)
    monkeypatch.setattr(engine, "RayBoard", lambda: SimpleNamespace(put=lambda *_: None, remove=lambda *_: None))
    monkeypatch.setattr(engine, "ray_meter", lambda enabled: MemoryMeter())
    monkeypatch.setattr(engine, "start_tracing", lambda service: None)
    monkeypatch.setattr(engine.weights, "fetch", lambda spec, variant, *_: folder_of(variant))

    async def started(**args):
        server = Loaded.__new__(Loaded)
        await server.__init__(ModelArgs(model=CHAT.id, **args))
        return server

    return started


@pytest.mark.parametrize("name", [None, *OTHERS])
async def test_a_replica_loads_the_weights_of_its_own_variant(start, name):
    server = await start(variant=name)
    variant = CHAT.variant(name)
    assert server.engine.variant == variant
    assert server.engine.folder == folder_of(variant)


def test_a_new_release_reaches_the_replicas_and_the_old_one_takes_it_back():
    """It is how an operator has replicas replaced; each tells the router which one it is of."""
    given = [build(ModelArgs(model=CHAT.id, release=release))._bound_deployment.init_args[0] for release in ("1", "2")]
    assert [args.release for args in given] == ["1", "2"]
    assert given[0] == ModelArgs(model=CHAT.id).settled() != given[1]


async def test_a_replica_whose_engine_is_dead_says_so(start):
    async def dead():
        raise RuntimeError("the engine's process died")

    server = await start()
    await server.check_health()  # an engine that says nothing of its health is well
    server.engine.check_health = dead
    with pytest.raises(RuntimeError, match="died"):
        await server.check_health()


async def test_the_time_of_a_call_is_that_of_the_work_and_not_of_what_only_looks_something_up(start, monkeypatch):
    """The autoscaler reads it: thousands of quick calls beside the work must not make a replica seem quick."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        calls, "time", SimpleNamespace(time=lambda: 0.0, monotonic=lambda: clock.now, perf_counter=lambda: clock.now)
    )
    log = CallLog(CHAT, CHAT.variant(None), MemoryMeter(), lines=False)

    def call(method, seconds):
        with log.begin(CallContext("id", 0.0), method):
            clock.now += seconds

    call("chat", 2.0)
    for method in ("tokenize", "detokenize"):
        for _ in range(100):
            call(method, 0.001)
    assert log.service_s == 2.0
    call("chat", 3.0)
    assert 2.0 < log.service_s < 3.0


async def test_what_does_not_fit_is_tried_at_half_the_size():
    """Each failure costs every picture of the batch a step, so there are few of them."""

    class Small(FakeImages):
        failures = 0

        def step(self, batch):
            if len(batch) > 2:
                self.failures += 1
                raise OutOfMemory("too large")
            super().step(batch)

    small = Small()
    loop = DenoisingLoop(small)
    pictures = [Picture("red", "", 16, 16, 4, 1.0, "fake", seed) for seed in range(16)]
    await asyncio.gather(*map(loop.make, pictures))
    assert small.failures == 2  # eight, which is the engine's own limit, and four


@pytest.mark.parametrize("shares", [True, False])
async def test_a_replica_knows_its_pace_before_its_first_request(monkeypatch, shares):
    """Also of an engine that does not tell of its steps, whether or not it answers several requests side by side."""
    if not shares:
        monkeypatch.setattr("models.engines.chat_fake.Engine.side_by_side", None)
    server = await chat_server()
    assert server.admission.pace.known
    assert server.admission.alone(Work(read=100.0, steps=10.0)).whole_s < 60
    assert server.admission.inside == []
