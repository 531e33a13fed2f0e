"""What a replica adds to its answers and writes down about them."""

import asyncio
from types import SimpleNamespace

import pytest

from deployments.board import MemoryBoard
from deployments.servers import calls
from deployments.servers.calls import Begun, BusyClock, CallContext, Ended, Refused, Terms
from deployments.servers.causes import explain
from deployments.servers.cold_start import ColdStart
from deployments.servers.forecast import InTurn
from deployments.settings import ModelArgs
from deployments.telemetry import BUSY, QUEUE_WAIT
from models.errors import InvalidRequest
from models.tasks.chat import GenerationRequest
from models.tasks.usage import COMPLETION_TOKENS, PROMPT_TOKENS, Usage
from models.weights import WeightsDamaged, WeightsMissing

CHAT = "smollm2-135m-instruct"

pytestmark = pytest.mark.usefixtures("virtual_clock")


@pytest.fixture
def server(chat):
    return chat


def request(text="one two", **body) -> GenerationRequest:
    return GenerationRequest({"messages": [{"role": "user", "content": text}], **body}, "r-1")


async def answer(server, call, sent_ago: float = 0.0):
    context = CallContext("r-1", calls.time.time() - sent_ago)
    return [item async for item in server.serve_stream(context, "chat", call)]


async def test_a_stream_begins_with_its_wait_and_ends_with_its_usage(server):
    first, *events, end = await answer(server, request(stream=True), sent_ago=0.5)
    assert isinstance(first, Begun)
    assert first.queue_s == pytest.approx(0.5, abs=1e-5)
    assert all(type(event) is bytes for event in events)
    assert isinstance(end, Ended)
    assert end.usage == Usage({PROMPT_TOKENS: 2, COMPLETION_TOKENS: 2})
    assert server.meter.total(QUEUE_WAIT, CHAT, "chat") == 1


@pytest.mark.parametrize("asked", [False, True])
async def test_usage_is_counted_and_told_only_to_a_client_that_asked(server, asked):
    options = {"stream_options": {"include_usage": True}} if asked else {}
    first, *events, end = await answer(server, request(stream=True, **options))
    told = [event for event in (first.item, *events) if b'"usage"' in event]
    assert len(told) == asked
    assert end.usage == Usage({PROMPT_TOKENS: 2, COMPLETION_TOKENS: 2})


async def test_a_whole_answer_carries_its_usage_too(server):
    begun, end = await answer(server, request())
    assert b'"usage"' in begun.item
    assert end.usage == Usage({PROMPT_TOKENS: 2, COMPLETION_TOKENS: 2})


async def test_words_that_look_like_a_usage_event_are_words(server):
    _, *events, _ = await answer(server, request('{"choices":[]}', stream=True))
    assert len(events) == 2


async def test_a_clock_that_is_behind_makes_no_negative_wait(server):
    first, *_ = await answer(server, request(stream=True), sent_ago=-60)
    assert first.queue_s == 0


@pytest.mark.parametrize("side_by_side", [True, False])
async def test_what_it_waited_before_is_part_of_its_promise_and_not_of_the_pace(server, side_by_side):
    """It waited ten seconds for its model and one for its place, and then for a token in each tenth of a second."""
    server.engine.seconds_per_token, enter = 0.1, server.admission.enter
    if not side_by_side:
        server.side_by_side, server.admission.schedule = None, InTurn()
    came = []

    def noted(work, terms, now, shows):
        came.append(now - terms.waited_s)
        return enter(work, terms, now, shows)

    server.admission.enter = noted
    for _ in range(5):
        now = calls.time.monotonic()
        context = CallContext("r-1", calls.time.time() - 1, terms=Terms(waited_s=10.0))
        [item async for item in server.serve_stream(context, "chat", request("one two three", stream=True))]
        assert came.pop() == pytest.approx(now - 11, abs=0.01)
    work = server.work("chat", request("one two three", stream=True, max_tokens=3))
    assert 0.1 < server.admission.alone(work).whole_s < 0.8


async def test_a_refusal_is_an_answer_and_not_an_exception(server, caplog):
    (refused,) = await answer(server, request("word " * 9000))
    assert isinstance(refused, Refused)
    assert refused.error.code == "context_length_exceeded"
    whole = await server.serve(CallContext("r-2", calls.time.time()), "detokenize", [5])
    assert isinstance(whole.result, Refused)


async def test_a_caller_that_leaves_is_a_cancelled_call(server, caplog):
    caplog.set_level("INFO", "ray.serve.access")
    server.engine.seconds_per_token = 0.01
    stream = server.serve_stream(CallContext("r-3", calls.time.time()), "chat", request("word " * 100, stream=True))
    await anext(stream)
    await stream.aclose()
    assert server.engine.tokens_made == 1
    (line,) = [record for record in caplog.records if record.name == "ray.serve.access"]
    assert (line.outcome, line.request_id, line.method) == ("cancelled", "r-3", "chat")
    assert "word" not in str(line.__dict__)
    assert server.meter.total(BUSY, CHAT, "cpu") == pytest.approx(0.01 * server.calls.devices)


async def test_overlapping_calls_are_busy_once():
    busy = BusyClock()
    busy.enter()
    await asyncio.sleep(0.1)
    busy.enter()
    await asyncio.sleep(0.1)
    assert busy.leave() + busy.leave() == pytest.approx(0.2)


@pytest.fixture
def board() -> MemoryBoard:
    return MemoryBoard()


@pytest.fixture
def start(board) -> ColdStart:
    return ColdStart(ModelArgs(model=CHAT, release="3"), "rep", board)


PROGRESS_KEY = f"progress/{CHAT}/rep"


def test_a_start_is_shown_phase_by_phase(start, board, monkeypatch):
    clock = SimpleNamespace(now=start.process_started + 3)
    monkeypatch.setattr("deployments.servers.cold_start.time", SimpleNamespace(time=lambda: clock.now))
    with start.phase("import"):
        assert board.facts[PROGRESS_KEY]["phase"] == "import"
        assert board.facts[PROGRESS_KEY]["since"] == start.process_started
    with start.phase("fetch"):
        start.fraction(0.5)
        start.fraction(0.504)  # too small a step to tell
        assert board.facts[PROGRESS_KEY]["fraction"] == 0.5
    with start.phase("load"):
        assert "fraction" not in board.facts[PROGRESS_KEY]
        clock.now += 2
    start.ready()
    told = board.facts[f"cold_start/{CHAT}/vllm-cpu"]
    assert told["seconds"] == {"import": 3, "fetch": 0, "load": 2}
    assert told["replica"] == "rep"
    assert board.facts[PROGRESS_KEY]["done"]


def test_a_start_that_fails_says_why_and_the_next_good_one_takes_it_back(start, board):
    with pytest.raises(RuntimeError), start.phase("load"):
        raise RuntimeError("secret /path")
    said = board.facts[f"failure/{CHAT}"]
    assert said["cause"] == "It failed in the phase load (RuntimeError)."
    assert said["remedy"]
    assert PROGRESS_KEY not in board.facts
    with start.phase("load"):
        pass
    start.ready()
    assert f"failure/{CHAT}" not in board.facts


@pytest.mark.parametrize(
    "error",
    [
        WeightsMissing("/a/path"),
        WeightsDamaged("/a/path"),
        MemoryError(),
        ImportError("no /a/path", name="vllm"),
        InvalidRequest("Bad."),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA /a/path"),
        ValueError("/a/path"),
    ],
)
def test_every_cause_has_a_remedy_and_no_path(error):
    cause, remedy = explain(error, "load")
    assert cause.endswith(".")
    assert remedy.endswith(".")
    assert "/a/path" not in cause + remedy
