import asyncio

import pytest
from local_dispatcher import LocalDispatcher
from replicas import CHAT, EMBEDDINGS, at_once, faked, started
from virtual_time import now

from deployments.router.dispatch import Deadline, ModelState, State
from deployments.router.record import RequestRecord
from deployments.servers.engine import EngineServer
from models.catalog import load_catalog
from models.errors import DeadlineExceeded, ModelNotDeployed
from models.tasks.methods import Stream, Unary, handles

pytestmark = pytest.mark.usefixtures("virtual_clock")


NUMBERS = Stream("numbers", tuple, int)
ADD = Unary("add", tuple, int)


class Slow(EngineServer):
    """Counts how many of its calls were closed early."""

    closed = 0

    async def warm_up(self):
        pass

    @handles(NUMBERS)
    async def numbers(self, asked):
        count, pause = asked
        try:
            for number in range(count):
                await asyncio.sleep(pause)
                yield number
        except (GeneratorExit, asyncio.CancelledError):
            self.closed += 1
            raise

    @handles(ADD)
    async def add(self, asked):
        one, other, pause = asked
        try:
            await asyncio.sleep(pause)
            return one + other
        except asyncio.CancelledError:
            self.closed += 1
            raise


SPEC, OTHER = faked(load_catalog()[CHAT]), load_catalog()[EMBEDDINGS]


@pytest.fixture
def slow() -> Slow:
    return at_once(started(SPEC, Slow))


@pytest.fixture
def record() -> RequestRecord:
    return RequestRecord("test")


def within(seconds: float) -> Deadline:
    return Deadline.after(seconds)


@pytest.fixture
def dispatcher(slow) -> LocalDispatcher:
    return LocalDispatcher({CHAT: slow})


async def test_a_call_gives_what_the_method_gives(dispatcher, record):
    assert await dispatcher.call(SPEC, ADD, (1, 2, 0), record=record, deadline=within(5)) == 3


async def test_a_stream_gives_the_items_in_order(dispatcher, record):
    assert [item async for item in dispatcher.stream(SPEC, NUMBERS, (3, 0), record=record, deadline=within(5))] == [
        0,
        1,
        2,
    ]


async def test_a_call_past_its_deadline_is_cancelled(dispatcher, slow, record):
    began = now()
    with pytest.raises(DeadlineExceeded, match=r"0\.02 s"):
        await dispatcher.call(SPEC, ADD, (1, 2, 60), record=record, deadline=within(0.02))
    assert now() - began == pytest.approx(0.02)
    assert slow.closed == 1


async def test_a_stream_past_its_deadline_is_closed_and_keeps_what_it_gave(dispatcher, slow, record):
    items = []

    async def read():
        async for item in dispatcher.stream(SPEC, NUMBERS, (1000, 0.02), record=record, deadline=within(0.11)):
            items.append(item)

    with pytest.raises(DeadlineExceeded):
        await read()
    assert items == [0, 1, 2, 3, 4]
    assert slow.closed == 1


async def test_the_deadline_of_a_stream_is_for_all_of_it_also_when_the_reader_is_slow(dispatcher, slow, record):
    stream = dispatcher.stream(SPEC, NUMBERS, (1000, 0.001), record=record, deadline=within(0.05))
    await anext(stream)
    await asyncio.sleep(0.06)
    with pytest.raises(DeadlineExceeded):
        await anext(stream)
    assert slow.closed == 1


async def test_closing_a_stream_closes_the_method(dispatcher, slow, record):
    stream = dispatcher.stream(SPEC, NUMBERS, (1000, 0), record=record, deadline=within(5))
    await anext(stream)
    await stream.aclose()
    assert slow.closed == 1


async def test_cancelling_the_caller_cancels_the_method(dispatcher, slow, record):
    task = asyncio.create_task(dispatcher.call(SPEC, ADD, (1, 2, 60), record=record, deadline=within(100)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.closed == 1


async def test_a_model_that_is_not_there_is_not_deployed(dispatcher, record):
    with pytest.raises(ModelNotDeployed, match=EMBEDDINGS):
        await dispatcher.call(OTHER, ADD, (1, 2, 0), record=record, deadline=within(5))
    with pytest.raises(ModelNotDeployed, match=EMBEDDINGS):
        await anext(dispatcher.stream(OTHER, NUMBERS, (1, 0), record=record, deadline=within(5)))


def test_states_are_ready_unless_stated_otherwise(slow):
    loading = ModelState(State.LOADING)
    dispatcher = LocalDispatcher({"a": slow, "b": slow}, {"b": loading, "c": loading})
    assert {name: state.state for name, state in dispatcher.states().items()} == {
        "a": State.READY,
        "b": State.LOADING,
        "c": State.LOADING,
    }


@pytest.mark.parametrize(
    ("state", "takes"),
    [("ready", True), ("scaled_to_zero", True), ("loading", False), ("failed", False), ("not_deployed", False)],
)
def test_only_models_that_run_or_can_be_woken_take_requests(state, takes):
    assert ModelState(State(state)).takes_requests is takes
