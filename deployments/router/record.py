"""What is known of one request: filled in on its way, written down when it is over."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from starlette.types import Scope

from deployments.metering import Meter
from deployments.servers.calls import CallContext, outcome_of
from deployments.telemetry import (
    COUNTERS,
    DURATION,
    ERRORS,
    FIRST_AUDIO,
    FIRST_TOKEN,
    OUTPUT_TOKEN,
    REAL_TIME_FACTOR,
    REQUESTS,
)
from deployments.tracing import close_span, open_span, traceparent_of
from models.errors import ServingError
from models.specs import ModelSpec
from models.tasks.task import Begins, Task
from models.tasks.usage import AUDIO_SECONDS, COMPLETION_TOKENS, NOTHING, PROMPT_TOKENS, Count, Usage

# Below Serve's own logger, so that lines land in the replica's log.
access_log = logging.getLogger("ray.serve.access")

# The client left before the end of its answer: nginx's number for it.
CLIENT_LEFT = 499
NO_MODEL = "none"


def clock() -> float:
    """Seconds that only grow: what the times of a record are on."""
    return time.perf_counter()


@dataclass(slots=True)
class Call:
    """One call of a model's server. `with record.call(...) as call:` around it.

    Attributes:
        model, variant, task, method: what is called; the variant is None where it is not known.
        called, first, last: the `clock` at the call, at the first item of the answer and at its end; None until then.
        queue_s, engine_s: what the replica says of it.
        code: of the error it ended in; "cancelled" if the request was over first.
    """

    request_id: str
    model: str
    task: Task[Any]
    method: str
    variant: str | None = None
    patient: bool = False
    called: float = field(default_factory=clock)
    first: float | None = None
    last: float | None = None
    queue_s: float | None = None
    engine_s: float | None = None
    usage: Usage = NOTHING
    code: str | None = None
    span: Any = None

    def context(self) -> CallContext:
        """What is to travel with the call."""
        return CallContext(self.request_id, time.time(), traceparent_of(self.span), self.patient)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self.last = clock()
        if error is not None:
            self.code = outcome_of(error)
        close_span(self.span)
        self.span = None

    def engine_so_far(self, now: float) -> float:
        """Seconds of work, also while the replica has not said how many it took in all."""
        if self.engine_s is not None:
            return self.engine_s
        return now - self.called - self.queue_s if self.queue_s is not None else 0.0

    def meter(self, meter: Meter) -> None:
        """Add what it used up to the counters of its task's contract."""
        for count in self.task.counts:
            if amount := self.usage[count]:
                value = (count.value,) if count.value else ()
                meter.write(COUNTERS[count.counter], amount, self.model, self.task.name, *value)

    def fields(self) -> dict[str, Any]:
        """As the log tells of it."""
        seconds = {"queue_ms": self.queue_s, "engine_ms": self.engine_s}
        return {
            "model": self.model,
            "variant": self.variant,
            "method": self.method,
            **{name: milliseconds(value) for name, value in seconds.items() if value is not None},
            "total_ms": milliseconds((self.last or clock()) - self.called),
            **counted(self.usage, self.task.counts),
            "code": self.code,
        }


@dataclass(slots=True)
class RequestRecord:
    """
    Attributes:
        verb: HTTP's method.
        arrived: the `clock` at arrival.
        model, task: that the request is for. Of a request that calls several models it is the one that lets it in.
        most_tokens: that the answer may have, if the request says so.
        patient: nobody waits for the answer.
        waited_s: for models to be up.
        calls: of models, in the order in which they began. A call that was made again is there twice.
        code: of the error the request ended in.
        close_code: of a WebSocket; None for other requests, and for one whose client vanished.
    """

    request_id: str
    path: str = ""
    verb: str = "POST"
    arrived: float = field(default_factory=clock)
    model: str = NO_MODEL
    task: Task[Any] | None = None
    stream: bool = False
    most_tokens: int | None = None
    patient: bool = False
    waited_s: float = 0.0
    calls: list[Call] = field(default_factory=list)
    code: str | None = None
    close_code: int | None = None
    span: Any = None

    def is_for(self, spec: ModelSpec) -> None:
        self.model, self.task = spec.id, spec.task

    def begin(self, headers: dict[str, str]) -> None:
        """Open the request's span, below the client's if its headers name one."""
        self.span = open_span(f"{self.verb} {self.path}", "server", headers)

    def call(self, spec: ModelSpec, method: str, variant: str | None = None) -> Call:
        """Note that a model is called now."""
        span = open_span(f"call {spec.id}", "client", self.span) if self.span else None
        call = Call(self.request_id, spec.id, spec.task, method, variant, self.patient, span=span)
        self.calls.append(call)
        return call

    @property
    def task_name(self) -> str:
        return self.task.name if self.task else NO_MODEL

    def failed(self, error: ServingError) -> None:
        self.code = error.code

    @property
    def primary(self) -> Call | None:
        """The newest call of the model that the request is for: the client's waits and promises are about it."""
        return next((call for call in reversed(self.calls) if call.model == self.model), None)

    @property
    def queue_s(self) -> float | None:
        """The sum over all calls; None if no replica has said any."""
        return total_of([call.queue_s for call in self.calls])

    @property
    def engine_s(self) -> float | None:
        """As `queue_s`."""
        return total_of([call.engine_s for call in self.calls])

    def usage(self) -> Usage:
        """What all calls used up."""
        first, *others = [call.usage for call in self.calls] or [NOTHING]
        return sum(others, first)

    def router_s(self, now: float) -> float:
        """Seconds in which nobody waited for a model, a place or an engine. Calls at the same time count once."""
        busy, covered = 0.0, -math.inf
        for call in sorted(self.calls, key=lambda call: call.called):
            if call.queue_s is not None:
                end = call.called + call.queue_s + call.engine_so_far(now)
                busy += max(0.0, end - max(covered, call.called))
                covered = max(covered, end)
        return max(0.0, now - self.arrived - self.waited_s - busy)

    def server_timing(self) -> bytes:
        """Server-Timing as far as it is known when the answer begins; milliseconds. https://www.w3.org/TR/server-timing/"""
        now = clock()
        engine = sum(call.engine_so_far(now) for call in self.calls)
        parts = {"router": self.router_s(now), "queue": self.queue_s or 0.0, "engine": engine}
        if self.waited_s:
            parts["wait"] = self.waited_s
        return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in parts.items()).encode()

    def close(self, status: int, meter: Meter) -> None:
        """Write the request down, once: metrics, a line of log, its span. Nothing of its content."""
        now = clock()
        total = now - self.arrived
        self._meter(status, total, meter)
        usage = self.usage()
        close_span(
            self.span,
            error=self.code,
            http__request__method=self.verb,
            url__path=self.path,
            http__response__status_code=status,
            gen_ai__request__model=self.model,
            gen_ai__usage__input_tokens=usage[PROMPT_TOKENS] or None,
            gen_ai__usage__output_tokens=usage[COMPLETION_TOKENS] or None,
            medley__request_id=self.request_id,
        )
        if access_log.isEnabledFor(logging.INFO):
            fields = self._fields(status, now, usage)
            access_log.info("%s %s %.1fms", self.path, status, total * 1000, extra=fields)

    def _meter(self, status: int, total: float, meter: Meter) -> None:
        labels = (self.model, self.task_name)
        meter.write(REQUESTS, 1, *labels, str(status))
        if self.code:
            meter.write(ERRORS, 1, *labels, self.code)
        elif status == 200:
            meter.write(DURATION, total, *labels)
        for call in self.calls:
            call.meter(meter)
        if self.primary is not None:
            self._meter_promises(self.primary, total, meter)

    def _meter_promises(self, call: Call, total: float, meter: Meter) -> None:
        """What can be promised beside the duration."""
        if self.stream and call.first is not None:
            if call.task.begins is Begins.TOKENS:
                meter.write(FIRST_TOKEN, call.first - self.arrived, self.model)
                others = call.usage[COMPLETION_TOKENS] - 1
                if others > 0 and call.last is not None:
                    meter.write(OUTPUT_TOKEN, (call.last - call.first) / others, self.model)
            if call.task.begins is Begins.AUDIO:
                meter.write(FIRST_AUDIO, call.first - self.arrived, self.model)
        if sound := call.usage[AUDIO_SECONDS]:
            meter.write(REAL_TIME_FACTOR, total / sound, self.model)

    def _fields(self, status: int, now: float, usage: Usage) -> dict[str, Any]:
        seconds = {
            "wait_ms": self.waited_s,
            "queue_ms": self.queue_s,
            "engine_ms": self.engine_s,
            "total_ms": now - self.arrived,
        }
        fields: dict[str, Any] = {
            "event": "request",
            "request_id": self.request_id,
            "path": self.path,
            "status": status,
            "model": self.model,
            "task": self.task_name,
            "stream": self.stream,
            **counted(usage, self.task.counts if self.task else ()),
            **{name: milliseconds(value) for name, value in seconds.items() if value is not None},
        }
        if self.code:
            fields["code"] = self.code
        if self.engine_s is not None:
            fields["router_ms"] = milliseconds(self.router_s(now))
        if self.close_code is not None:
            fields["close_code"] = self.close_code
        if len(self.calls) > 1:
            fields["calls"] = [call.fields() for call in self.calls]
        return fields


def counted(usage: Usage, counts: Sequence[Count]) -> dict[str, float]:
    """What was used up, by name: of each count there is, and always of tokens."""
    return {count.name: usage[count] for count in dict.fromkeys((PROMPT_TOKENS, COMPLETION_TOKENS, *counts))}


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)


def total_of(seconds: Sequence[float | None]) -> float | None:
    """The sum of those that are known; None if none is."""
    known = [value for value in seconds if value is not None]
    return sum(known) if known else None


def record_of(scope: Scope) -> RequestRecord:
    """The record of a request that came through RequestContext."""
    return scope["record"]
