"""Calls of a replica by themselves, on a stub that has no engine; and how chat asks its engine for the usage.

Streams of a chat model are in test_replica_calls.py.
"""

import asyncio
import json
import logging
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from patience import until

from deployments.metering import MemoryMeter
from deployments.servers import calls
from deployments.servers.admission import Admission
from deployments.servers.calls import Answer, Begun, BusyClock, CallContext, CallLog, Ended, Refused, outcome_of
from deployments.servers.chat import Server as ChatServer
from deployments.servers.chat import asking_for_usage, usage_in, wants_usage
from deployments.servers.engine import EngineServer
from deployments.servers.lengths import Lengths
from deployments.servers.pace import Pace
from deployments.telemetry import BUSY, QUEUE_WAIT
from models.catalog import load_catalog
from models.errors import EngineFailed, InvalidRequest
from models.specs import Needs
from models.tasks.chat import GenerationRequest, event
from models.tasks.methods import Stream, Unary, handles
from models.tasks.usage import COMPLETION_TOKENS, NOTHING, PROMPT_TOKENS, Usage

CHAT = "smollm2-135m-instruct"
CANARY = "xylophone-canary-1618"

pytestmark = pytest.mark.usefixtures("virtual_clock")


@dataclass
class Rows:
    usage: Usage


ROWS = Unary("rows", float, Rows)
PLAIN = Unary("plain", str, str)
REFUSE = Unary("refuse", str, str)
BUG = Unary("bug", str, str)
ITEMS = Stream("items", tuple, bytes)


class Stub(EngineServer):
    """A replica without an engine: its methods do what a test needs."""

    def __init__(self, gpus: int = 0, cpus: float = 1, lines: bool = True):
        self.spec = load_catalog()[CHAT]
        self.meter = MemoryMeter()
        variant = SimpleNamespace(needs=Needs(gpus=gpus, cpus=cpus, memory_gib=1))
        self.calls = CallLog(self.spec, variant, self.meter, lines)  # type: ignore[arg-type]
        self.admission = Admission(Pace(), self.schedule())
        self.closed = False

    @handles(ROWS)
    async def rows(self, pause):
        await asyncio.sleep(pause)
        return Rows(Usage({PROMPT_TOKENS: 5}))

    @handles(PLAIN)
    async def plain(self, text):
        return text

    @handles(REFUSE)
    async def refuse(self, text):
        raise InvalidRequest(f"No {text}.", "input")

    @handles(BUG)
    async def bug(self, text):
        raise RuntimeError(text)

    @handles(ITEMS)
    async def items(self, items):
        try:
            for item in items:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed = True


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def lines(caplog):
    """The lines of the access log so far."""
    caplog.set_level(logging.INFO, "ray.serve.access")
    return lambda: [line for line in caplog.records if line.name == "ray.serve.access"]


def context(sent_ago: float = 0.0) -> CallContext:
    return CallContext("r-1", calls.time.time() - sent_ago)


async def streamed(stub, *items):
    return [item async for item in stub.serve_stream(context(), "items", items)]


async def test_an_answer_has_its_result_times_and_usage(stub, lines):
    answer = await stub.serve(context(sent_ago=0.4), "rows", 0.1)
    assert isinstance(answer, Answer)
    assert answer.result == Rows(Usage({PROMPT_TOKENS: 5}))
    assert answer.usage == Usage({PROMPT_TOKENS: 5})
    assert answer.queue_s == pytest.approx(0.4, abs=1e-5)
    assert answer.engine_s == pytest.approx(0.1)
    (waited,) = stub.meter.values[QUEUE_WAIT.name, CHAT, "chat"]
    assert waited == answer.queue_s
    (line,) = lines()
    assert (line.event, line.model, line.method, line.outcome) == ("call", CHAT, "rows", "ok")
    assert line.queue_ms == pytest.approx(answer.queue_s * 1000, abs=0.01)
    assert line.engine_ms == 100


async def test_a_result_without_usage_used_nothing(stub):
    assert (await stub.serve(context(), "plain", "text")).usage == NOTHING


async def test_a_refusal_is_an_answer_with_its_times(stub, lines):
    answer = await stub.serve(context(sent_ago=0.2), "refuse", CANARY)
    assert isinstance(answer.result, Refused)
    assert (answer.result.error.code, answer.result.error.param) == ("invalid_value", "input")
    assert answer.queue_s == pytest.approx(0.2, abs=1e-5)
    assert answer.usage == NOTHING
    (line,) = lines()
    assert line.outcome == "invalid_value"
    assert CANARY not in str(line.__dict__)


async def test_a_bug_stays_an_exception_and_is_named_in_the_log_without_its_text(stub, lines):
    with pytest.raises(RuntimeError):
        await stub.serve(context(), "bug", CANARY)
    (line,) = lines()
    assert line.outcome == "internal_error"
    assert CANARY not in str(line.__dict__)
    assert stub.meter.total(QUEUE_WAIT, CHAT, "chat") == 1


async def test_a_cancelled_call_is_told_of_as_cancelled(stub, lines):
    call = asyncio.create_task(stub.serve(context(), "rows", 60))
    await until(lambda: stub.calls.busy._calls, "it is under way")
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (line,) = lines()
    assert line.outcome == "cancelled"
    assert stub.meter.total(BUSY, CHAT, "cpu") == pytest.approx(0.05, abs=0.01)


async def test_a_stream_is_its_first_item_its_bytes_and_its_end(stub, lines):
    begun, second, third, end = await streamed(stub, b"1", b"2", Usage({PROMPT_TOKENS: 3, COMPLETION_TOKENS: 2}), b"3")
    assert isinstance(begun, Begun)
    assert (begun.item, second, third) == (b"1", b"2", b"3")
    assert begun.queue_s == 0
    assert isinstance(end, Ended)
    assert end.usage == Usage({PROMPT_TOKENS: 3, COMPLETION_TOKENS: 2})
    assert end.engine_s == 0
    assert [line.outcome for line in lines()] == ["ok"]
    assert stub.closed


async def test_usage_before_the_first_item_does_not_begin_the_stream(stub):
    begun, end = await streamed(stub, Usage({PROMPT_TOKENS: 3, COMPLETION_TOKENS: 2}), b"1")
    assert (begun.item, end.usage) == (b"1", Usage({PROMPT_TOKENS: 3, COMPLETION_TOKENS: 2}))


async def test_an_empty_stream_only_ends(stub):
    (end,) = await streamed(stub)
    assert isinstance(end, Ended)


async def test_a_stream_that_breaks_ends_in_its_error(stub, lines):
    begun, second, refused = await streamed(stub, b"1", b"2", EngineFailed("It broke."), b"3")
    assert (begun.item, second) == (b"1", b"2")
    assert isinstance(refused, Refused)
    assert refused.error.code == "engine_failed"
    assert [line.outcome for line in lines()] == ["engine_failed"]


@pytest.mark.parametrize("leaves", [False, True])
async def test_who_is_refused_does_not_wait_until_that_is_recorded(stub, lines, leaves):
    stream = stub.serve_stream(context(), "items", (EngineFailed("It broke."),))
    assert isinstance(await anext(stream), Refused)
    assert lines() == []
    if leaves:
        await stream.aclose()
    else:
        assert [item async for item in stream] == []
    assert [line.outcome for line in lines()] == ["engine_failed"]
    assert stub.calls.busy._calls == 0


async def test_a_bug_in_a_stream_stays_an_exception(stub, lines):
    with pytest.raises(RuntimeError):
        await streamed(stub, b"1", RuntimeError(CANARY))
    (line,) = lines()
    assert line.outcome == "internal_error"
    assert CANARY not in str(line.__dict__)


async def test_a_stream_that_is_left_closes_the_method_and_is_cancelled(stub, lines):
    stream = stub.serve_stream(context(), "items", (b"1", b"2", b"3"))
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    assert stub.closed
    assert [line.outcome for line in lines()] == ["cancelled"]
    assert stub.calls.busy._calls == 0


async def test_a_wait_is_never_negative(stub):
    answer = await stub.serve(context(sent_ago=-60), "plain", "text")
    assert answer.queue_s == 0
    assert stub.meter.values[QUEUE_WAIT.name, CHAT, "chat"] == [0]


async def test_lines_can_be_switched_off_and_metrics_stay(lines):
    stub = Stub(lines=False)
    await stub.serve(context(), "plain", "text")
    assert lines() == []
    assert stub.meter.total(QUEUE_WAIT, CHAT, "chat") == 1


@pytest.mark.parametrize(
    ("gpus", "cpus", "device", "devices"), [(0, 1, "cpu", 1), (0, 0.25, "cpu", 0.25), (2, 8, "gpu", 2)]
)
async def test_busy_seconds_count_devices_and_overlapping_calls_once(gpus, cpus, device, devices):
    stub = Stub(gpus, cpus)
    await asyncio.gather(*(stub.serve(context(), "rows", seconds) for seconds in (0.1, 0.2, 0.2, 0.3)))
    await asyncio.sleep(1)
    await stub.serve(context(), "rows", 0.1)
    assert stub.meter.total(BUSY, CHAT, device) == pytest.approx(0.4 * devices)


def test_a_clock_counts_neither_the_time_before_nor_between_calls(monkeypatch):
    now = 100.0
    monkeypatch.setattr(calls.time, "monotonic", lambda: now)
    busy, taken = BusyClock(), []
    # Two calls from 110 to 140 that overlap in the middle, one alone from 200 to 201.
    for at, do in [(110, busy.enter), (120, busy.enter), (130, busy.leave), (140, busy.leave)]:
        now = at
        taken.append(do())
    for at, do in [(200, busy.enter), (201, busy.leave)]:
        now = at
        taken.append(do())
    assert taken == [None, None, 20, 10, None, 1]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (GeneratorExit(), "cancelled"),
        (asyncio.CancelledError(), "cancelled"),
        (InvalidRequest("no"), "invalid_value"),
        (ValueError("no"), "internal_error"),
    ],
)
def test_every_end_of_a_call_has_a_name(error, outcome):
    assert outcome_of(error) == outcome


class Scripted:
    """An engine of chat models that sends what it was given and keeps what it was asked."""

    def __init__(self, *items):
        self.items = items
        self.asked: list[GenerationRequest] = []

    async def chat(self, request):
        self.asked.append(request)
        for item in self.items:
            yield item

    complete = chat


class Chat(ChatServer):
    def __init__(self, engine):
        self.spec = load_catalog()[CHAT]
        self.engine = engine
        self.lengths = Lengths()


WORD = event({"choices": [{"index": 0, "delta": {"content": "one"}}]})
COUNTS = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
LAST = event({"choices": [], "usage": COUNTS})
DONE = b"data: [DONE]\n\n"


def request(**body) -> GenerationRequest:
    return GenerationRequest({"messages": [], **body}, "r-1")


@pytest.mark.parametrize("method", ["chat", "complete"])
async def test_an_event_of_usage_that_was_not_asked_for_is_taken_out(method):
    engine = Scripted(WORD, LAST, DONE)
    items = [item async for item in getattr(Chat(engine), method)(request(stream=True))]
    assert items == [WORD, Usage({PROMPT_TOKENS: 3, COMPLETION_TOKENS: 2}), DONE]
    assert engine.asked[0].body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("method", ["chat", "complete"])
async def test_an_event_of_usage_that_was_asked_for_is_passed_on(method):
    asked = request(stream=True, stream_options={"include_usage": True})
    items = [item async for item in getattr(Chat(Scripted(WORD, LAST, DONE)), method)(asked)]
    assert items == [WORD, LAST, Usage({PROMPT_TOKENS: 3, COMPLETION_TOKENS: 2}), DONE]


async def test_a_client_that_says_no_to_usage_gets_none():
    engine = Scripted(WORD, LAST, DONE)
    asked = request(stream=True, stream_options={"include_usage": False})
    assert [item async for item in Chat(engine).chat(asked)] == [
        WORD,
        Usage({PROMPT_TOKENS: 3, COMPLETION_TOKENS: 2}),
        DONE,
    ]
    assert engine.asked[0].body["stream_options"]["include_usage"] is True


async def test_a_whole_answer_is_passed_on_as_it_is():
    document = json.dumps({"choices": [{"index": 0}], "usage": COUNTS}).encode()
    engine = Scripted(document)
    assert [item async for item in Chat(engine).chat(request())] == [
        document,
        Usage({PROMPT_TOKENS: 3, COMPLETION_TOKENS: 2}),
    ]
    assert "stream_options" not in engine.asked[0].body


def test_asking_for_usage_changes_neither_the_clients_request_nor_its_other_options():
    theirs = request(stream=True, stream_options={"continuous_usage_stats": True}, seed=1)
    ours = asking_for_usage(theirs)
    assert ours.body["stream_options"] == {"continuous_usage_stats": True, "include_usage": True}
    assert ours.body["seed"] == 1
    assert ours.request_id == theirs.request_id
    assert theirs.body["stream_options"] == {"continuous_usage_stats": True}
    assert not wants_usage(theirs)


@pytest.mark.parametrize(
    ("item", "usage"),
    [
        (WORD, None),
        (DONE, None),
        (LAST, Usage({PROMPT_TOKENS: 3, COMPLETION_TOKENS: 2})),
        (
            b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n',
            Usage({PROMPT_TOKENS: 3, COMPLETION_TOKENS: 2}),
        ),
        (event({"choices": [], "usage": None}), None),
        (event({"choices": []}), None),
        (
            event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": None}}),
            Usage({PROMPT_TOKENS: 3, COMPLETION_TOKENS: 0}),
        ),
        (event({"error": {"message": "It broke."}}), None),
        # Counts in an event with words are for the client, and not the last ones.
        (event({"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": COUNTS}), None),
        # Words of the model that look like the event of usage.
        (event({"choices": [{"index": 0, "delta": {"content": '"choices":[],"usage":{"prompt_tokens":9}'}}]}), None),
        (event({"choices": [{"index": 0, "delta": {"content": 'data: {"choices": []}'}}]}), None),
    ],
)
def test_usage_is_read_only_from_the_event_that_holds_it(item, usage):
    assert usage_in(item, stream=True) == usage
