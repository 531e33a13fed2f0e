"""Replicas that live and do not answer: who is told so, how soon, and that nothing is held against them afterwards. On
virtual time."""

import asyncio
import subprocess
import sys

import psutil
import pytest
from local_serve import local_serve, slow_chat, slow_embeddings  # noqa: F401
from patience import wait_until
from replicas import CHAT, EMBEDDINGS
from test_lost_replicas import embed
from test_serving import ask, code_of, http_of
from virtual_time import now

from deployments.router.silence import LOOK_S, SILENT_S, Silence
from deployments.servers import engine

pytestmark = pytest.mark.usefixtures("virtual_clock")
SOON_S = SILENT_S + 3 * LOOK_S


@pytest.fixture
def serve(local_serve):  # noqa: F811
    return local_serve


async def test_requests_in_a_replica_that_is_stopped_are_refused_soon_and_it_is_itself_again_when_it_goes_on(serve):
    (replica,) = serve.deploy(EMBEDDINGS, await slow_embeddings(0.1)).replicas
    async with http_of(await serve.router()) as http:
        assert (await embed(http)).status_code == 200
        replica.goes_on.clear()
        began = now()
        inside = await embed(http)
        assert (inside.status_code, code_of(inside)) == (503, "replica_lost")
        assert int(inside.headers["retry-after"]) > 0
        assert now() - began <= SOON_S
        later = await embed(http)
        assert later.status_code == 503
        assert now() - began <= 2 * SOON_S
        assert (await http.get("/readyz")).status_code == 503
        replica.goes_on.set()
        await asyncio.sleep(3 * LOOK_S)
        assert (await http.get("/readyz")).status_code == 200
        assert (await embed(http)).status_code == 200
        (router,) = serve.routers
        assert not router.services.suspects.of(EMBEDDINGS)


async def test_a_stream_of_a_replica_that_is_stopped_ends_with_an_error(serve):
    application = serve.deploy(CHAT, await slow_chat(1.0))
    (replica,) = application.replicas
    async with http_of(await serve.router()) as http:
        stream = asyncio.create_task(ask(http, stream=True))
        await asyncio.sleep(0.1)
        replica.goes_on.clear()
        answer = await stream
        assert answer.status_code == 200  # it had begun, and the fake replica goes on with what it has begun
        stopped = asyncio.create_task(ask(http, stream=True))
        began = now()
        refused = await stopped
        assert now() - began <= SOON_S
        assert refused.status_code == 503 or b"replica_lost" in refused.content


async def test_others_go_on_beside_a_replica_that_is_stopped(serve):
    application = serve.deploy(EMBEDDINGS, await slow_embeddings(0.1), await slow_embeddings(0.1), places=1)
    first, _ = application.replicas
    async with http_of(await serve.router()) as http:
        await asyncio.sleep(1)  # it has made its first call
        first.goes_on.clear()
        one, *others = [asyncio.create_task(embed(http, f"{number}")) for number in range(4)]
        assert {(await other).status_code for other in others} == {200}
        assert not one.done()
        first.goes_on.set()
        assert (await one).status_code == 200


async def test_a_replica_that_works_for_long_is_not_silent(serve):
    serve.deploy(EMBEDDINGS, await slow_embeddings(10 * SILENT_S))
    async with http_of(await serve.router()) as http:
        assert (await embed(http)).status_code == 200


async def test_who_stood_still_itself_blames_nobody():
    answers = asyncio.Event()
    silence = Silence(lambda _: answers.wait())
    assert silence.look({"one"}) == set()
    await asyncio.sleep(2 * SILENT_S)  # without a look in between
    assert silence.look({"one"}) == set()
    found: set[str] = set()
    for _ in range(int(SILENT_S / LOOK_S) + 1):
        await asyncio.sleep(LOOK_S)
        found = silence.look({"one"})
    assert found == {"one"}
    answers.set()
    await asyncio.sleep(LOOK_S)
    assert silence.look({"one"}) == set()
    silence.forget({"one"})


async def test_a_replica_leaves_when_a_process_of_its_engine_is_stopped_for_long(monkeypatch, serve):
    server = await slow_chat()
    (replica,) = serve.deploy(CHAT, server).replicas
    looks = iter([True, True, False, True, True, True])
    seen = []
    monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: [self])
    monkeypatch.setattr(
        engine, "is_stopped", lambda _: seen.append(replica in serve.applications[CHAT].replicas) or next(looks)
    )
    await server.watch_workers()
    await asyncio.sleep(1)
    assert seen == [True] * 6
    assert replica not in serve.applications[CHAT].replicas


def test_a_process_is_stopped_from_when_it_is_until_it_goes_on_or_ends():
    process = psutil.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not engine.is_stopped(process)
        process.suspend()
        wait_until(lambda: engine.is_stopped(process), "it to stop")
        process.resume()
        wait_until(lambda: not engine.is_stopped(process), "it to go on")
    finally:
        process.kill()
        process.communicate()
    assert not engine.is_stopped(process)
