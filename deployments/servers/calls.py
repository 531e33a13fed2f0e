"""One call of a replica: the data that travels with its arguments and its answer, and its record in metrics and log."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self

from deployments.metering import Meter
from deployments.telemetry import BUSY, QUEUE_WAIT
from deployments.tracing import close_span, open_span
from models.errors import ServingError
from models.specs import ModelSpec, VariantSpec
from models.tasks.usage import COMPLETION_TOKENS, NOTHING, PROMPT_TOKENS, Usage

logger = logging.getLogger("ray.serve.access")

# The weight of the newest call in the mean service time.
NEWEST = 0.1


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a router sends a request; see admission.py.

    Attributes:
        client: with whom it shares the replica: its client's address.
        first_s, piece_s, whole_s: promised seconds to the first piece, for each piece after it on average, and for the
            whole answer. Infinite where nothing is promised.
        deadline_s: the client's own limit for the whole.
        waited_s: how much of these is over already. overhead_s: how much of them the way there and back takes.
        patient: it is from a batch job, so others may go first, and only its deadline counts.
        returns: it was refused before, and comes again when it was told to.
        again: it was counted before as work that is asked.
        ahead_s: replica-seconds of work of others who were told to come again about now.
        router: who sends it. told_s: replica-seconds of all refused work that this router expects again.
        sure: it was admitted before, and its replica died; or it has waited for room that did not come.
    """

    client: str = "unknown"
    first_s: float = math.inf
    piece_s: float = math.inf
    whole_s: float = math.inf
    deadline_s: float = math.inf
    waited_s: float = 0.0
    overhead_s: float = 0.0
    patient: bool = False
    returns: bool = False
    again: bool = False
    ahead_s: float = 0.0
    router: str = ""
    told_s: float = 0.0
    sure: bool = False

    @property
    def promised(self) -> bool:
        return min(self.first_s, self.piece_s, self.whole_s, self.deadline_s) < math.inf

    def whole(self) -> float:
        return self.deadline_s if self.patient else min(self.whole_s, self.deadline_s)


NO_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Times:
    """What a request could expect, in seconds: to its first and its last piece, and for each piece after the first."""

    first_s: float
    piece_s: float
    whole_s: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a replica tells of a request that was not made.

    Attributes:
        refused: the error that it would get now; None if it would be admitted.
        now, alone: what it could expect now, and if nothing else were there. None if the pace is not known yet.
        work_s: replica-seconds that it takes. inside_s: of the requests that are inside.
        read: units that it reads. steps: pieces that its answer is expected to have.
        inside: how many requests there are.
        observations: how much the figures are based on.
    """

    refused: ServingError | None
    now: Times | None
    alone: Times | None
    work_s: float | None
    inside_s: float
    read: float
    steps: float
    inside: int
    observations: int


@dataclass(frozen=True, slots=True)
class CallContext:
    """
    Attributes:
        request_id: the id in every log line of the request.
        sent: Unix time of the router's call. If the replica is on another node, the queue wait is a difference of two
            machines' clocks, so nodes must keep their clocks in step.
        trace: W3C trace context; empty if the request is not traced.
    """

    request_id: str
    sent: float
    trace: dict[str, str] = field(default_factory=dict)
    terms: Terms = NO_TERMS


# The call that the current asyncio task works on.
CONTEXT: ContextVar[CallContext | None] = ContextVar("call", default=None)


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a call, and how many seconds it waited and ran."""

    result: Any
    queue_s: float
    engine_s: float
    usage: Usage


@dataclass(frozen=True, slots=True)
class Begun:
    """The first item of a stream, and how many seconds the call waited."""

    item: Any
    queue_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """Follows the last item of a stream: how many seconds the call ran, and its usage."""

    engine_s: float
    usage: Usage


@dataclass(frozen=True, slots=True)
class Refused:
    """The error of a call. It replaces the answer, or the rest of a stream."""

    error: ServingError


@dataclass(frozen=True, slots=True)
class Died:
    """The engine has died, and its replica goes. It replaces the answer, or the rest of a stream.

    Attributes:
        replica: Serve's id of the replica.
        ran: the engine lived when the call began, so the call may be what killed it.
    """

    replica: str
    ran: bool


class BusyClock:
    """Measures the time in which at least one call is running."""

    def __init__(self):
        self._calls = 0
        self._mark = 0.0

    def enter(self) -> None:
        if self._calls == 0:
            self._mark = time.monotonic()
        self._calls += 1

    def leave(self) -> float:
        """One call ends. Returns the busy seconds since the last call that ended."""
        now = time.monotonic()
        taken, self._mark = now - self._mark, now
        self._calls -= 1
        return taken


class CallLog:
    """Records a replica's calls: metrics, a log line and two spans each. Never their content.

    Attributes:
        service_s: the recent mean duration of answered calls, in seconds; 0 before the first.
        lookups: names of methods that only look something up, which say nothing about the duration of real work.
    """

    def __init__(self, spec: ModelSpec, variant: VariantSpec, meter: Meter, lines: bool = True):
        self.spec = spec
        self.meter = meter
        self.lines = lines
        self.busy = BusyClock()
        self.service_s = 0.0
        self.lookups = {method.name for method in spec.task.methods if method.lookup}
        self.device, self.devices = variant.needs.device

    def note_service(self, seconds: float) -> None:
        self.service_s = seconds if not self.service_s else self.service_s + NEWEST * (seconds - self.service_s)

    def begin(self, context: CallContext, method: str) -> Call:
        """`with log.begin(...) as call:` around the work; `call.usage` is set within, and `call.error` where it is not
        raised."""
        return Call(self, context, method)


class Call:
    """A running call; see CallLog.begin."""

    def __init__(self, log: CallLog, context: CallContext, method: str):
        self.log = log
        self.context = context
        self.method = method
        self.usage: Usage = NOTHING
        self.error: ServingError | None = None  # that was the answer

    def __enter__(self) -> Self:
        CONTEXT.set(self.context)
        self.begun_at = time.time()
        self._started = time.perf_counter()
        self.queue_s = max(0.0, self.begun_at - self.context.sent)
        self.log.busy.enter()
        self._span = None
        if self.context.trace:
            queue = open_span("queue", "internal", self.context.trace, min(self.context.sent, self.begun_at))
            close_span(queue, self.begun_at)
            self._span = open_span(f"engine {self.method}", "server", self.context.trace, self.begun_at)
        return self

    @property
    def engine_s(self) -> float:
        return time.perf_counter() - self._started

    def first_item(self) -> None:
        """Mark the beginning of the answer in the trace."""
        if self._span is not None:
            self._span.add_event("first item")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        engine_s, spec, meter = self.engine_s, self.log.spec, self.log.meter
        outcome = outcome_of(self.error or error)
        if outcome == "ok" and self.method not in self.log.lookups:
            self.log.note_service(engine_s)
        meter.write(QUEUE_WAIT, self.queue_s, spec.id, spec.task.name)
        meter.write(BUSY, self.log.busy.leave() * self.log.devices, spec.id, self.log.device)
        close_span(
            self._span,
            error=None if outcome in ("ok", "cancelled") else outcome,
            gen_ai__request__model=spec.id,
            gen_ai__usage__input_tokens=self.usage[PROMPT_TOKENS] or None,
            gen_ai__usage__output_tokens=self.usage[COMPLETION_TOKENS] or None,
            medley__outcome=outcome,
        )
        if self.log.lines:
            fields = {
                "event": "call",
                "request_id": self.context.request_id,
                "model": spec.id,
                "method": self.method,
                "outcome": outcome,
                "queue_ms": round(self.queue_s * 1000, 2),
                "engine_ms": round(engine_s * 1000, 2),
            }
            logger.info("%s %s %s", spec.id, self.method, outcome, extra=fields)


def outcome_of(error: BaseException | None) -> str:
    """ "ok", "cancelled" (by the caller), or the code of the error."""
    if error is None:
        return "ok"
    if isinstance(error, (GeneratorExit, asyncio.CancelledError)):
        return "cancelled"
    return error.code if isinstance(error, ServingError) else "internal_error"
