import asyncio

import pytest
from virtual_time import now

from deployments.router.dispatch import LocalDispatcher, ModelState, State
from deployments.router.record import RequestRecord
from models.errors import DeadlineExceeded, ModelNotDeployed
from models.tasks.methods import Stream, Unary

pytestmark = pytest.mark.usefixtures("virtual_clock")


NUMBERS = Stream("numbers", tuple, int)
ADD = Unary("add", tuple, int)


class Slow:
    """Counts how many of its calls were closed early."""

    def __init__(self):
        self.closed = 0

    async def numbers(self, asked):
        count, pause = asked
        try:
            for number in range(count):
                await asyncio.sleep(pause)
                yield number
        except (GeneratorExit, asyncio.CancelledError):
            self.closed += 1
            raise

    async def add(self, asked):
        one, other, pause = asked
        try:
            await asyncio.sleep(pause)
            return one + other
        except asyncio.CancelledError:
            self.closed += 1
            raise


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def dispatcher(slow) -> LocalDispatcher:
    return LocalDispatcher({"slow": slow})


async def test_a_call_gives_what_the_method_gives(dispatcher):
    assert await dispatcher.call("slow", ADD, (1, 2, 0), record=RequestRecord("test"), deadline=5) == 3


async def test_a_stream_gives_the_items_in_order(dispatcher):
    assert [
        item async for item in dispatcher.stream("slow", NUMBERS, (3, 0), record=RequestRecord("test"), deadline=5)
    ] == [0, 1, 2]


async def test_a_call_past_its_deadline_is_cancelled(dispatcher, slow):
    began = now()
    with pytest.raises(DeadlineExceeded, match=r"0\.02 s"):
        await dispatcher.call("slow", ADD, (1, 2, 60), record=RequestRecord("test"), deadline=0.02)
    assert now() - began == pytest.approx(0.02)
    assert slow.closed == 1


async def test_a_stream_past_its_deadline_is_closed_and_keeps_what_it_gave(dispatcher, slow):
    items = []

    async def read():
        async for item in dispatcher.stream("slow", NUMBERS, (1000, 0.02), record=RequestRecord("test"), deadline=0.11):
            items.append(item)

    with pytest.raises(DeadlineExceeded):
        await read()
    assert items == [0, 1, 2, 3, 4]
    assert slow.closed == 1


async def test_the_deadline_of_a_stream_is_for_all_of_it_also_when_the_reader_is_slow(dispatcher, slow):
    stream = dispatcher.stream("slow", NUMBERS, (1000, 0.001), record=RequestRecord("test"), deadline=0.05)
    await anext(stream)
    await asyncio.sleep(0.06)
    with pytest.raises(DeadlineExceeded):
        await anext(stream)
    assert slow.closed == 1


async def test_closing_a_stream_closes_the_method(dispatcher, slow):
    stream = dispatcher.stream("slow", NUMBERS, (1000, 0), record=RequestRecord("test"), deadline=5)
    await anext(stream)
    await stream.aclose()
    assert slow.closed == 1


async def test_cancelling_the_caller_cancels_the_method(dispatcher, slow):
    task = asyncio.create_task(dispatcher.call("slow", ADD, (1, 2, 60), record=RequestRecord("test"), deadline=100))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.closed == 1


async def test_a_model_that_is_not_there_is_not_deployed(dispatcher):
    with pytest.raises(ModelNotDeployed, match="'other'"):
        await dispatcher.call("other", ADD, (1, 2, 0), record=RequestRecord("test"), deadline=5)
    with pytest.raises(ModelNotDeployed, match="'other'"):
        await anext(dispatcher.stream("other", NUMBERS, (1, 0), record=RequestRecord("test"), deadline=5))


def test_states_are_ready_unless_stated_otherwise():
    loading = ModelState(State.LOADING)
    dispatcher = LocalDispatcher({"a": Slow(), "b": Slow()}, {"b": loading, "c": loading})
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
