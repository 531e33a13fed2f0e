"""Two-way calls: pieces go to a replica while its answer comes out. On virtual time, through the router as it is
deployed."""

import asyncio
import logging
from contextlib import aclosing

import pytest
from fastapi import WebSocket
from local_serve import local_serve  # noqa: F401
from patience import until
from replicas import CHAT, faked, started
from virtual_time import now

from deployments.mailbox import MOST_WAITING
from deployments.router import calling
from deployments.router.dispatch import Deadline
from deployments.router.record import RequestRecord
from deployments.servers.engine import EngineServer
from models.catalog import load_catalog
from models.errors import DeadlineExceeded, EngineFailed, InvalidRequest, ReplicaLost
from models.tasks import BY_NAME
from models.tasks.methods import Duplex, handles
from models.tasks.usage import PROMPT_TOKENS, Usage

SPEC = load_catalog()[CHAT]
TALK = Duplex("talk", str, str)

pytestmark = pytest.mark.usefixtures("virtual_clock")


class Talker(EngineServer):
    """Says each word again in capitals, and at the end how many there were.

    Attributes:
        heard: words that were taken. seconds: that a word takes. most: of words, after which it hears no more.
    """

    seconds = 0.0
    most = 1000
    error: Exception | None = None

    async def warm_up(self):
        self.heard = []

    @handles(TALK)
    async def talk(self, words):
        async for word in words:
            self.heard.append(word)
            await asyncio.sleep(self.seconds)
            if self.error:
                raise self.error
            yield word.upper()
            if len(self.heard) == self.most:
                break
        yield Usage({PROMPT_TOKENS: len(self.heard)})
        yield f"{len(self.heard)} words"


class Source:
    """Words that come when they are said.

    Attributes:
        asked: how many were asked for. closed: whether nobody will ask for more.
    """

    def __init__(self, *words: str, then: Exception | None = None):
        self.words = asyncio.Queue()
        for word in words:
            self.say(word)
        self.then = then
        self.asked, self.closed = 0, False

    def say(self, word: str | None) -> None:
        self.words.put_nowait(word)

    async def __aiter__(self):
        try:
            while (word := await self._next()) is not None:
                yield word
        finally:
            self.closed = True

    async def _next(self):
        self.asked += 1
        if self.then and self.words.empty():
            raise self.then
        return await self.words.get()


@pytest.fixture
def serve(local_serve):  # noqa: F811
    return local_serve


@pytest.fixture
async def talker() -> Talker:
    return await started(faked(SPEC), Talker)


@pytest.fixture
async def dispatcher(serve, talker):
    serve.deploy(CHAT, talker)
    await serve.router()
    return serve.routers[0].dispatcher


@pytest.fixture
def record() -> RequestRecord:
    return RequestRecord("r-1")


@pytest.fixture
def converse(dispatcher, record):
    def begin(source, seconds=600.0):
        return dispatcher.converse(SPEC, TALK, aiter(source), deadline=Deadline.after(seconds), record=record)

    return begin


async def rests(serve):
    """Nothing of a conversation is left anywhere."""
    await asyncio.sleep(0)
    assert serve.mailbox.conversations == {}
    assert not any(replica.calls for one in serve.applications.values() for replica in one.replicas)
    assert serve.routers[0].dispatcher._in_flight[CHAT] == 0


async def test_answers_come_while_the_client_goes_on(serve, converse, record):
    source = Source()
    async with aclosing(converse(source)) as items:
        for word in ("one", "two", "three"):
            source.say(word)
            assert await anext(items) == word.upper()
        source.say(None)
        assert [item async for item in items] == ["3 words"]
    await rests(serve)
    (call,) = record.calls
    assert (call.method, call.usage, call.code) == ("talk", Usage({PROMPT_TOKENS: 3}), None)
    assert call.first is not None


async def test_words_that_were_all_said_before_are_answered_one_by_one(serve, converse):
    words = [f"word{number}" for number in range(3 * MOST_WAITING)]
    said = [item async for item in converse(Source(*words, None))]
    assert said == [*(word.upper() for word in words), f"{len(words)} words"]
    await rests(serve)


async def test_a_model_that_has_heard_enough_ends_it(serve, converse, talker):
    talker.most, source = 2, Source("one", "two", "three")
    assert [item async for item in converse(source)] == ["ONE", "TWO", "2 words"]
    assert source.closed
    await rests(serve)


async def test_a_client_is_read_no_faster_than_the_model_hears(serve, converse, talker):
    talker.seconds = 1.0
    source = Source(*map(str, range(1000)))
    async with aclosing(converse(source)) as items:
        await anext(items)
        await asyncio.sleep(0.5)
        # In the mailbox, with the replica, and the one that waits for room.
        assert source.asked <= 2 * MOST_WAITING + 2
    assert source.closed
    await rests(serve)


async def test_a_client_that_leaves_ends_it_on_both_sides(serve, converse, talker):
    source = Source("one")
    items = converse(source)
    assert await anext(items) == "ONE"
    await items.aclose()
    assert source.closed
    await rests(serve)
    source.say("two")
    await asyncio.sleep(1)
    assert talker.heard == ["one"]


async def test_a_request_that_is_cancelled_while_it_waits_ends_it_too(serve, converse, record):
    source = Source()

    async def listen():
        return [item async for item in converse(source)]

    listening = asyncio.create_task(listen())
    await until(lambda: source.asked, "it listens", every=0.01)
    await asyncio.sleep(1)
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert source.closed
    await rests(serve)
    assert [call.code for call in record.calls] == ["cancelled"]


async def test_what_the_client_does_wrong_is_the_error(serve, converse):
    source = Source("one", then=InvalidRequest("That is no word.", "word"))
    items = converse(source)
    with pytest.raises(InvalidRequest, match="no word"):
        [item async for item in items]
    await rests(serve)


async def test_what_the_model_refuses_is_the_error(serve, converse, talker):
    talker.error, source = EngineFailed("It broke."), Source("one")
    with pytest.raises(EngineFailed):
        [item async for item in converse(source)]
    assert source.closed
    await rests(serve)


async def test_a_replica_that_dies_is_lost_and_the_call_is_not_made_again(serve, converse, talker, record):
    application = serve.applications[CHAT]
    application.add(await started(faked(SPEC), Talker))
    source = Source()
    waiting = asyncio.ensure_future(anext(converse(source)))
    await until(lambda: application.replicas[0].calls, "it has begun", every=0.01)
    application.replicas[0].die(application)
    with pytest.raises(ReplicaLost):
        await waiting
    await asyncio.sleep(0)
    assert source.closed
    assert len(record.calls) == 1
    await rests(serve)


async def test_a_mailbox_that_loses_a_conversation_ends_it(serve, converse):
    source = Source("one")
    items = converse(source)
    assert await anext(items) == "ONE"
    (conversation,) = serve.mailbox.conversations
    await serve.mailbox.discard(conversation)
    source.say("two")
    with pytest.raises(ReplicaLost, match="Begin it again"):
        await anext(items)
    await rests(serve)


async def test_the_deadline_is_for_the_whole_conversation(serve, converse):
    source, began = Source("one"), now()
    items = converse(source, seconds=3)
    assert await anext(items) == "ONE"
    await asyncio.sleep(2)
    with pytest.raises(DeadlineExceeded):
        await anext(items)
    assert now() - began == pytest.approx(3)
    assert source.closed
    await rests(serve)


async def talk(websocket: WebSocket) -> None:
    spec = websocket.app.state.services.resolve(CHAT, BY_NAME["chat"])
    async with calling.admitted(websocket, spec) as calls:
        await websocket.accept()
        async with aclosing(calls.converse(spec, TALK, websocket.iter_text())) as items:
            async for item in items:
                await websocket.send_text(item)


async def test_a_websocket_talks_with_a_model(serve, talker, caplog):
    caplog.set_level(logging.INFO, "ray.serve.access")
    talker.most = 2
    serve.deploy(CHAT, talker)
    application = await serve.router()
    application.add_api_websocket_route("/talk", talk)
    incoming, sent = asyncio.Queue(), asyncio.Queue()
    incoming.put_nowait({"type": "websocket.connect"})
    scope = {"type": "websocket", "path": "/talk", "headers": [], "query_string": b""}
    request = asyncio.create_task(application(scope, incoming.get, sent.put))
    assert (await sent.get())["type"] == "websocket.accept"
    for word in ("one", "two"):
        incoming.put_nowait({"type": "websocket.receive", "text": word})
        assert (await sent.get())["text"] == word.upper()
    assert (await sent.get())["text"] == "2 words"
    assert (await sent.get())["code"] == 1000
    await request
    await rests(serve)
    (line,) = [line for line in caplog.records if getattr(line, "event", None) == "request"]
    assert (line.status, line.close_code, line.model, line.prompt_tokens) == (101, 1000, CHAT, 2)
