"""Replicas that die under their requests: who is made again, who is refused, and what the router says meanwhile. The
router with its real dispatcher over real servers; Serve's controller learns of a death only when the test lets it. On
virtual time."""

import asyncio
import threading
from contextlib import aclosing

import pytest
from local_serve import Application, local_serve, slow_chat, slow_embeddings  # noqa: F401
from patience import until
from replicas import CHAT, EMBEDDINGS
from test_serving import ask, code_of, http_of
from virtual_time import now

from deployments.router import serve_dispatcher, suspects
from deployments.router.calling import BRIEF_S
from deployments.router.dispatch import Deadline, lost
from deployments.router.suspects import MOST, REMEMBERED_S, Suspects
from deployments.telemetry import DISCOVERY_AGE
from models.catalog import load_catalog
from models.errors import EngineFailed, SuspectedRequest
from models.tasks.chat import COMPLETE, GenerationRequest
from models.tasks.images import MAKE, ImageRequest

on_virtual_time = pytest.mark.usefixtures("virtual_clock")
POISON = "poison"


@pytest.fixture
def serve(local_serve):  # noqa: F811
    return local_serve


async def mortal(seconds: float = 1.0):
    """A server of an engine with a process of its own, which dies of a word."""
    server = await slow_chat(seconds)
    chat, dead = server.engine.chat, asyncio.Event()

    async def dying(request):
        async with aclosing(chat(request)) as items:
            if POISON in str(request.body):
                await asyncio.sleep(0.1)
                dead.set()
            async for item in items:
                if dead.is_set():
                    raise EngineFailed("It is dead.")
                yield item

    server.engine.chat, server.engine_died = dying, dead.is_set
    return server


def starts_in(serve, seconds: float, model: str = CHAT) -> None:
    variant = load_catalog()[model].default_variant
    serve.board.put(
        f"cold_start/{model}/{variant}", {"replica": "", "process_started": 1.0, "seconds": {"load": seconds}}
    )


async def embed(http, text="hi"):
    return await http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": text})


# Who killed it


@on_virtual_time
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_kills_is_refused_after_two_and_those_beside_it_are_answered(serve, stream):
    application = serve.deploy(CHAT, await mortal(), await mortal(), await mortal(), places=8)
    first, _, third = application.replicas
    async with http_of(await serve.router()) as http:
        beside = [asyncio.create_task(ask(http, text=f"number {number}")) for number in range(3)]
        await until(lambda: len(first.calls) == 3, "three are at work", every=0.01)
        poison = await ask(http, stream, text=POISON)
        assert (poison.status_code, code_of(poison)) == (503, "replica_lost")
        assert {(await one).status_code for one in beside} == {200}
        await asyncio.sleep(1)
        assert application.replicas == [third]
        for _ in range(3):
            again = await ask(http, stream, text=POISON)
            assert (again.status_code, code_of(again)) == (400, "suspected_request")
        assert application.replicas == [third]
        assert (await ask(http, text="number 1")).status_code == 200
        await asyncio.sleep(REMEMBERED_S)
        assert code_of(await ask(http, stream, text=POISON)) == "replica_lost"


@on_virtual_time
async def test_with_one_replica_a_killer_is_refused_at_its_third_try_and_others_never(serve):
    starts_in(serve, 100)
    application = serve.deploy(CHAT, await mortal())
    async with http_of(await serve.router()) as http:
        for beside in (503, 200):  # the second time they begin one after the other
            innocent = asyncio.create_task(ask(http, text="one"))
            await asyncio.sleep(0.1)
            killer = await ask(http, text=POISON)
            assert (killer.status_code, code_of(killer)) == (503, "replica_lost")
            assert int(killer.headers["retry-after"]) == 60  # a start takes longer
            assert (await innocent).status_code == beside
            await asyncio.sleep(2)
            application.add(await mortal())
            await asyncio.sleep(2)
        assert code_of(await ask(http, text=POISON)) == "suspected_request"
        assert (await ask(http, text="one")).status_code == 200
    assert len(application.replicas) == 1


@on_virtual_time
async def test_calls_that_found_a_dead_engine_are_not_suspected(serve):
    application = serve.deploy(CHAT, await mortal(), await slow_chat(), places=1)
    first, _ = application.replicas
    async with http_of(await serve.router()) as http:
        first.server.engine_died = lambda: True
        first.server.engine.chat = broken
        assert (await ask(http)).status_code == 200  # half a second later, of the other
        (router,) = serve.routers
        assert not router.services.suspects.of(CHAT)
        assert application.replicas != [first]


async def broken(request):
    raise EngineFailed("It is dead.")
    yield


@on_virtual_time
async def test_clients_that_ask_the_same_lose_nothing_with_their_replica_and_are_not_suspected_after(serve):
    application = serve.deploy(EMBEDDINGS, await slow_embeddings(0.5), await slow_embeddings(0.5))
    statuses = []

    async def client(http):
        for _ in range(20):
            statuses.append((await embed(http)).status_code)

    async with http_of(await serve.router()) as http, asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(client(http))
        await asyncio.sleep(3.2)
        application.replicas[0].die(application, known=False)
        await asyncio.sleep(3)
        application.add(await slow_embeddings(0.5))
        await asyncio.sleep(1)
        application.replicas[0].die(application, known=False)
    assert statuses == [200] * 80
    assert not serve.routers[0].services.suspects.of(EMBEDDINGS)


# While nothing is up


@on_virtual_time
@pytest.mark.parametrize("known", [False, True])
async def test_a_model_that_is_soon_up_again_is_waited_for_by_those_it_lost_and_by_new_ones(serve, known):
    starts_in(serve, 4, EMBEDDINGS)
    application = serve.deploy(EMBEDDINGS, await slow_embeddings(1))
    async with http_of(await serve.router()) as http:
        running = asyncio.create_task(embed(http, "running"))
        await asyncio.sleep(0.5)
        application.replicas[0].die(application, known)
        await asyncio.sleep(0)
        new = asyncio.create_task(embed(http, "new"))
        await asyncio.sleep(4)
        assert [running.done(), new.done()] == [False, False]
        application.add(await slow_embeddings(1))
        assert (await running).status_code == (await new).status_code == 200


@on_virtual_time
async def test_what_does_not_come_up_is_not_waited_for_longer_than_briefly(serve):
    starts_in(serve, 4, EMBEDDINGS)
    application = serve.deploy(EMBEDDINGS, await slow_embeddings(1))
    async with http_of(await serve.router()) as http:
        running = asyncio.create_task(embed(http))
        await asyncio.sleep(0.5)
        application.replicas[0].die(application)
        began = now()
        answer = await running
        assert (answer.status_code, code_of(answer)) == (503, "replica_lost")
        assert now() - began == pytest.approx(BRIEF_S, abs=0.1)


@on_virtual_time
async def test_readyz_says_at_once_that_an_engine_died(serve):
    starts_in(serve, 100)
    application = serve.deploy(CHAT, await mortal())
    async with http_of(await serve.router(discovery_interval_s=3600)) as http:
        assert (await http.get("/readyz")).status_code == 200
        assert code_of(await ask(http, text=POISON)) == "replica_lost"
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["models"][CHAT]["state"]) == (503, "loading")
        assert code_of(await ask(http)) == "model_starting"
        await asyncio.sleep(1)
        assert not application.replicas  # the process of a dead engine ends


@on_virtual_time
async def test_an_engine_that_dies_unasked_ends_its_replica_at_the_next_look(serve):
    application = serve.deploy(CHAT, await mortal())
    (replica,) = application.replicas
    replica.server.engine_died = lambda: True
    for _ in range(3):
        await replica.server.check_health()
    await asyncio.sleep(1)
    assert not application.replicas


@on_virtual_time
async def test_a_replica_that_only_seemed_lost_counts_again(serve):
    application = serve.deploy(EMBEDDINGS, await slow_embeddings(1))
    (replica,) = application.replicas
    async with http_of(await serve.router()) as http:
        for call_ends in (True, False):
            running = asyncio.create_task(embed(http))
            await asyncio.sleep(0.5)
            (call,) = replica.calls
            call.lose()  # as when the network fails
            assert code_of(await running) == "replica_lost"
            assert code_of(await embed(http)) == "model_starting"
            serve.hangs = not call_ends  # with and without a controller that answers
            await asyncio.sleep(serve_dispatcher.LOST_S + serve_dispatcher.LONGEST_LOOK_S + 2)
            assert (await embed(http)).status_code == 200


# The control plane


@on_virtual_time
async def test_readyz_tells_how_old_its_knowledge_is_and_requests_go_on(serve):
    serve.deploy(CHAT, await slow_chat())
    async with http_of(await serve.router()) as http:
        await asyncio.sleep(5)
        assert (await http.get("/readyz")).json()["age_s"] <= 1
        serve.hangs, asked = True, serve.asked
        await asyncio.sleep(60)
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert 59 <= ready.json()["age_s"] <= 61
        assert "does not answer for" in ready.json()["cause"]
        assert 54 <= serve.meter.total(DISCOVERY_AGE) <= 61
        assert 8 <= serve.asked - asked <= 12
        assert (await ask(http)).status_code == 200
        serve.hangs = False
        await asyncio.sleep(7)
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["age_s"] <= 1) == (200, True)
        assert serve.meter.total(DISCOVERY_AGE) == 0


async def test_a_board_that_hangs_holds_one_thread_however_often_it_is_asked(serve, monkeypatch):
    monkeypatch.setattr(serve_dispatcher, "LONGEST_LOOK_S", 0.02)
    serve.deploy(CHAT, await slow_chat())
    async with http_of(await serve.router(discovery_interval_s=0.01)) as http:
        go, before = threading.Event(), threading.active_count()
        serve.board.all = go.wait
        asked = serve.asked
        try:
            await until(lambda: serve.asked >= asked + 5, "some looks", every=0.01)
            assert threading.active_count() <= before + 1
            assert (await ask(http)).status_code == 200
        finally:
            go.set()


# The table


def asking(words, number=1):
    return GenerationRequest({"prompt": words, "n": 1}, f"id-{number}", 3)


def test_equal_requests_are_told_by_their_content_and_nothing_else():
    table = Suspects()

    def of(asked, method=COMPLETE):
        return table.digest(CHAT, str(method), asked)

    assert of(asking("a")) == of(asking("a", 2)) == of(GenerationRequest({"n": 1, "prompt": "a"}, "", 3))
    assert of(ImageRequest("a", image=b"1")) == of(ImageRequest("a", image=b"1"))
    different = [
        of(asking("a")),
        of(asking("b")),
        of(asking(["a"])),
        of(asking("a"), MAKE),
        of(asking(1 << 70)),
        of(asking("\ud800")),
        of(ImageRequest("a", image=b"1")),
        of(ImageRequest("a", image=b"2")),
        Suspects().digest(CHAT, "complete", asking("a")),
    ]
    assert len(set(different)) == len(different)


@on_virtual_time
async def test_the_table_forgets(monkeypatch):
    table = Suspects()
    for number in range(MOST + 5):
        table.suspect(b"%d" % number, CHAT)
    assert table.find(b"4") is None
    assert table.find(b"5") is not None
    assert not table.of(EMBEDDINGS)
    await asyncio.sleep(REMEMBERED_S)
    assert not table.of(CHAT)
    assert table.find(b"5") is None


@on_virtual_time
async def test_suspects_begin_one_at_a_time_and_only_the_one_whose_turn_it_is_is_taken_for_the_killer():
    table, begun = Suspects(), []
    watched = [table.watch(CHAT, COMPLETE, asking(f"number {number}")) for number in range(3)]
    for one in watched:
        table.suspect(one.digest(), CHAT)

    async def run(number, seconds, ends):
        async with watched[number].one_try(Deadline.after(60)):
            begun.append((number, round(now() - start, 1)))
            await asyncio.sleep(seconds)
            if ends is not None:
                raise ends

    start = now()
    first = asyncio.create_task(run(0, suspects.TURN_S + 1, lost("Gone.", "a", True)))  # beside the killer
    second = asyncio.create_task(run(1, 1, lost("Gone.", "a", True)))
    third = asyncio.create_task(run(2, 1, None))
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert begun == [(0, 0), (1, suspects.TURN_S), (2, suspects.TURN_S + 1)]
    assert [table.find(one.digest()) and table.find(one.digest()).refused for one in watched] == [False, True, None]
    with pytest.raises(SuspectedRequest, match="10 minutes"):
        await run(1, 0, None)
