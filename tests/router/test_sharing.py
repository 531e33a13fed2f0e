"""Routers tell each other whom they refused, and who came again."""

import asyncio
import contextlib

import pytest
from patience import until

from deployments import notices
from deployments.notices import MemoryNotices
from deployments.router.promises import Promises
from deployments.router.sharing import share_turns
from models.errors import TooBusy

pytestmark = pytest.mark.usefixtures("virtual_clock")


async def test_each_takes_what_the_others_gave_and_takes_it_once():
    between = MemoryNotices()
    waiting = [asyncio.create_task(between.take(router)) for router in "abc"]
    await asyncio.sleep(0.1)
    await between.give("a", [1, 2])
    assert [await one for one in waiting[1:]] == [[1, 2], [1, 2]]
    assert not waiting[0].done()  # its own are not news to it
    await between.give("b", [3])
    assert await waiting[0] == [3]
    assert await between.take("c") == [3]
    assert [await between.take(router) for router in "abc"] == [[], [], []]


async def test_nothing_is_kept_for_a_router_that_has_ended(monkeypatch):
    monkeypatch.setattr(notices, "MOST_UNREAD", 3)
    between = MemoryNotices()
    assert await between.take("a") == []
    await between.give("b", range(5))
    assert await between.take("a") == [2, 3, 4]
    await asyncio.sleep(3 * notices.WAIT_S + 1)
    await between.give("b", [5])
    assert between.unread == {}


@contextlib.asynccontextmanager
async def routers(between, *others, several=lambda: True):
    promises = [Promises(), Promises(), *others]
    tasks = [asyncio.create_task(share_turns(one, between, several)) for one in promises]
    await asyncio.sleep(0.5)
    try:
        yield promises
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def refuse(promises: Promises, digest: bytes) -> None:
    busy = TooBusy("is busy", None, 2.0)
    busy.work_s, busy.room_s = 1.0, 2.0
    promises.refused_by("model").refused(digest, busy, 1, asyncio.get_running_loop().time())


async def test_a_turn_is_known_to_the_others_before_it_comes():
    async with routers(MemoryNotices()) as (one, other):
        refuse(one, b"digest")
        await asyncio.sleep(0.5)
        assert other.refused_by("model").turns.keys() == {b"digest"}
        assert other.refused_by("model").comes(b"digest", asyncio.get_running_loop().time())
        await asyncio.sleep(0.5)
        assert not one.refused_by("model")
        assert one.news() == other.news() == []


async def test_a_router_that_is_alone_tells_nobody():
    between = MemoryNotices()
    async with routers(between, several=lambda: False) as (one, _):
        refuse(one, b"digest")
        await asyncio.sleep(3)
        assert not between.unread
        assert not one.refused_by("model").news


async def test_what_keeps_the_notices_may_end():
    """It belongs to one of the routers."""

    class Ending(MemoryNotices):
        ended = False

        async def take(self, router):
            if self.ended:
                raise ConnectionError
            return await super().take(router)

        async def give(self, router, notices):
            if self.ended:
                raise ConnectionError
            await super().give(router, notices)

    between = Ending()
    async with routers(between) as (one, other):
        between.ended = True
        refuse(one, b"lost")
        await asyncio.sleep(30)
        between.ended = False
        await asyncio.sleep(3)
        refuse(one, b"digest")
        await until(lambda: other.refused_by("model").turns.keys() == {b"digest"}, "the notice")
