"""The server of tasks that have none of their own, around a small engine."""

import asyncio
import threading
import time

import pytest
from patience import until
from replicas import started
from small_models import COMMON

from deployments.metering import MemoryMeter
from deployments.servers.calls import CallContext, Refused, Terms
from deployments.telemetry import BATCH_SIZE
from models.errors import InvalidRequest
from models.specs import ModelSpec
from models.tasks.methods import Unary
from models.tasks.task import Settings, Task
from models.tasks.tokens import TOKENIZE

SHOUT = Unary("shout", str, str)
SAMPLES = ("warm", "up")
TASK = Task("shouting", Settings, (SHOUT,), (), lambda settings: tuple(map(SHOUT, SAMPLES)), batched=True)
SPEC = ModelSpec.model_validate({"id": "shouter", "title": "Shouter", "task": TASK, **COMMON})


class Engine:
    """Writes words in capitals. It keeps its batches, and works on one that begins with "wait" until it is let go."""

    largest_batch = 4
    largest_cost = 24.0

    def __init__(self):
        self.batches: list[list[str]] = []
        self.go = threading.Event()

    @classmethod
    def load(cls, spec, variant, weights):
        return cls()

    def cost(self, request):
        if request == "cost":
            raise RuntimeError(f"about {request}")
        if not request:
            raise InvalidRequest("There is no word.", "input")
        return float(len(request))

    def run(self, requests):
        self.batches.append(list(requests))
        if requests[0] == "wait":
            assert self.go.wait(60)
        if "bug" in requests:
            raise RuntimeError(f"about {requests}")
        return [text.upper() for text in requests]


@pytest.fixture
def meter():
    return MemoryMeter()


@pytest.fixture
async def server(meter):
    server = await started(SPEC, engine=Engine, meter=meter)
    yield server
    server.engine.go.set()


async def ask(server, text, patient=False):
    answer = await server.serve(CallContext("r-1", time.time(), terms=Terms(patient=patient)), "shout", text)
    if isinstance(answer.result, Refused):
        raise answer.result.error
    return answer.result


async def asked_meanwhile(server, *asks):
    """What comes while the model works on one request, in the order in which it is asked. Returns the answers."""
    server.engine.batches.clear()
    first = asyncio.create_task(ask(server, "wait"))
    await until(lambda: server.engine.batches, "the model works")
    others = []
    for text, patient in asks:
        others.append(asyncio.create_task(ask(server, text, patient)))
        await asyncio.sleep(0)
    server.engine.go.set()
    return (await asyncio.gather(first, *others))[1:]


def test_every_sample_is_answered_before_the_first_request(server):
    assert server.engine.batches == [[text] for text in SAMPLES]


async def test_requests_share_batches_within_what_the_engine_says(server, meter):
    before = meter.total(BATCH_SIZE, SPEC.id)
    short, long = list("abcde"), [letter * 12 for letter in "fgh"]
    answers = await asked_meanwhile(server, *((text, False) for text in (*short, *long)))
    assert answers == [text.upper() for text in (*short, *long)]
    assert server.engine.batches == [["wait"], short[:4], short[4:], long[:2], long[2:]]
    assert meter.total(BATCH_SIZE, SPEC.id) - before == 5


async def test_who_is_not_waited_for_comes_last(server):
    server.batcher.largest_batch = 1
    await asked_meanwhile(server, ("patient", True), ("urgent", False))
    assert server.engine.batches == [["wait"], ["urgent"], ["patient"]]


async def test_what_the_engine_refuses_is_refused_with_its_words(server):
    with pytest.raises(InvalidRequest, match=r"There is no word\."):
        await ask(server, "")


@pytest.mark.parametrize("where", ["bug", "cost"])
async def test_a_bug_of_the_engine_is_told_without_its_words(server, where):
    with pytest.raises(Exception, match="The model shouter failed on this request") as failed:
        await ask(server, where)
    assert (failed.value.code, failed.value.status) == ("engine_failed", 500)


def test_no_other_method_is_handled(server):
    with pytest.raises(LookupError):
        server.handler(TOKENIZE.name)
