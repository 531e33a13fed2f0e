"""The record of one request: filled in along the way, written to metrics, log and trace at the end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from starlette.types import Scope

from deployments.metering import Meter
from deployments.servers.calls import NO_TERMS, CallContext, Terms, outcome_of
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

# A child of Serve's logger, so that lines go into the replica's log.
access_log = logging.getLogger("ray.serve.access")

# The client disconnected before the end of its answer; nginx's status for that.
CLIENT_LEFT = 499
NO_MODEL = "none"


def clock() -> float:
    """The monotonic clock, in seconds, of all times in a record."""
    return time.perf_counter()


@dataclass(slots=True)
class Call:
    """One call of a model. Wrap it in `with record.call(...) as call:`.

    Attributes:
        model, variant, task, method: the target; the variant is None if unknown.
        terms: on which it is made.
        called, first, last: the `clock` at the call, at the answer's first item and at its end; None until then.
        queue_s, engine_s: reported by the replica.
        code: the code of the error that ended it; "cancelled" if the request ended first.
    """

    request_id: str
    model: str
    task: Task[Any]
    method: str
    variant: str | None = None
    terms: Terms = NO_TERMS
    called: float = field(default_factory=clock)
    first: float | None = None
    last: float | None = None
    queue_s: float | None = None
    engine_s: float | None = None
    usage: Usage = NOTHING
    code: str | None = None
    span: Any = None

    def context(self) -> CallContext:
        """The context that travels with the call."""
        return CallContext(self.request_id, time.time(), traceparent_of(self.span), self.terms)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self.last = clock()
        if error is not None:
            self.code = outcome_of(error)
        close_span(self.span)
        self.span = None

    def engine_so_far(self, now: float) -> float:
        """Seconds of work; an estimate until the replica has reported the total."""
        if self.engine_s is not None:
            return self.engine_s
        return now - self.called - self.queue_s if self.queue_s is not None else 0.0

    def meter(self, meter: Meter) -> None:
        """Add its usage to the counters of its task's contract."""
        for count in self.task.counts:
            if amount := self.usage[count]:
                value = (count.value,) if count.value else ()
                meter.write(COUNTERS[count.counter], amount, self.model, self.task.name, *value)

    def fields(self) -> dict[str, Any]:
        """The form in the log."""
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
        verb: the HTTP method.
        arrived: the `clock` at arrival.
        model, task: the main model. For a request that calls several models, the one that admitted it.
        terms: on which its next call is made, if it is a call of the main model. Others are made on none.
        waited_s: the wait for models to start.
        calls: the calls of models, in the order in which they began. A repeated call is listed twice.
        code: the code of the error that ended the request; with `client_` before it if the client chose that.
        close_code: of a WebSocket. None for other requests, and if the client vanished.
    """

    request_id: str
    path: str = ""
    verb: str = "POST"
    arrived: float = field(default_factory=clock)
    model: str = NO_MODEL
    task: Task[Any] | None = None
    stream: bool = False
    terms: Terms = NO_TERMS
    waited_s: float = 0.0
    calls: list[Call] = field(default_factory=list)
    code: str | None = None
    close_code: int | None = None
    span: Any = None

    def is_for(self, spec: ModelSpec) -> None:
        self.model, self.task = spec.id, spec.task

    def begin(self, headers: dict[str, str]) -> None:
        """Open the request's span, as a child of the client's if its headers name one."""
        self.span = open_span(f"{self.verb} {self.path}", "server", headers)

    def call(self, spec: ModelSpec, method: str, variant: str | None = None) -> Call:
        """Add a call that begins now."""
        span = open_span(f"call {spec.id}", "client", self.span) if self.span else None
        ours = replace(self.terms, waited_s=clock() - self.arrived)
        terms = ours if spec.id == self.model else Terms(patient=ours.patient, sure=True)
        call = Call(self.request_id, spec.id, spec.task, method, variant, terms, span=span)
        self.calls.append(call)
        return call

    @property
    def task_name(self) -> str:
        return self.task.name if self.task else NO_MODEL

    def failed(self, error: ServingError) -> None:
        self.code = f"client_{error.code}" if error.by_choice else error.code

    @property
    def primary(self) -> Call | None:
        """The latest call of the main model, to which the client's waits and promises apply."""
        return next((call for call in reversed(self.calls) if call.model == self.model), None)

    @property
    def queue_s(self) -> float | None:
        """The sum over all calls; None if no replica has reported any."""
        return total_of([call.queue_s for call in self.calls])

    @property
    def engine_s(self) -> float | None:
        """Like `queue_s`."""
        return total_of([call.engine_s for call in self.calls])

    def usage(self) -> Usage:
        """The usage of all calls."""
        first, *others = [call.usage for call in self.calls] or [NOTHING]
        return sum(others, first)

    def router_s(self, now: float) -> float:
        """Seconds without a wait for a model, a place or an engine. Simultaneous calls count once."""
        busy, covered = 0.0, -math.inf
        for call in sorted(self.calls, key=lambda call: call.called):
            if call.queue_s is not None:
                end = call.called + call.queue_s + call.engine_so_far(now)
                busy += max(0.0, end - max(covered, call.called))
                covered = max(covered, end)
        return max(0.0, now - self.arrived - self.waited_s - busy)

    def server_timing(self) -> bytes:
        """The Server-Timing that is known when the answer begins, in milliseconds. https://www.w3.org/TR/server-timing/"""
        now = clock()
        engine = sum(call.engine_so_far(now) for call in self.calls)
        parts = {"router": self.router_s(now), "queue": self.queue_s or 0.0, "engine": engine}
        if self.waited_s:
            parts["wait"] = self.waited_s
        return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in parts.items()).encode()

    def close(self, status: int, meter: Meter) -> None:
        """Write the request down, once: metrics, a log line, its span. Never its content."""
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
        """The times that can be promised, besides the duration."""
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
    """The usage by name: every count that occurred, and always the tokens."""
    return {count.name: usage[count] for count in dict.fromkeys((PROMPT_TOKENS, COMPLETION_TOKENS, *counts))}


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)


def total_of(seconds: Sequence[float | None]) -> float | None:
    """The sum of the known values; None if there are none."""
    known = [value for value in seconds if value is not None]
    return sum(known) if known else None


def record_of(scope: Scope) -> RequestRecord:
    """The record that RequestContext gave to a request."""
    return scope["record"]
