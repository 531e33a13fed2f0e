"""What is known of one request: filled in on its way, written down when it is over."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from deployments.metering import Meter
from deployments.servers.calls import CallContext
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
from models.tasks.usage import AUDIO_SECONDS, COMPLETION_TOKENS, NOTHING, PROMPT_TOKENS, Usage

# Below Serve's own logger, so that lines land in the replica's log.
access_log = logging.getLogger("ray.serve.access")

# The client left before the end of its answer: nginx's number for it.
CLIENT_LEFT = 499
NO_MODEL = "none"


def clock() -> float:
    """Seconds that only grow: what the times of a record are on."""
    return time.perf_counter()


@dataclass(slots=True)
class RequestRecord:
    """
    Attributes:
        arrived: the `clock` at arrival; `called`, `first` and `last` (the call to the replica, the
            first and the last item of its answer) are on the same clock, None until they happen.
        most_tokens: that the answer may have, if the request says so.
        waited_s: for the model to be up.
        queue_s, engine_s: what the replica says of the call.
        code: of the error it ended in.
    """

    request_id: str
    path: str = ""
    arrived: float = field(default_factory=clock)
    model: str = NO_MODEL
    contract: Task[Any] | None = None
    stream: bool = False
    most_tokens: int | None = None
    waited_s: float = 0.0
    called: float | None = None
    first: float | None = None
    last: float | None = None
    queue_s: float | None = None
    engine_s: float | None = None
    usage: Usage = NOTHING
    code: str | None = None
    span: Any = None
    call_span: Any = None

    def is_for(self, spec: ModelSpec) -> None:
        self.model, self.contract = spec.id, spec.task

    def begin(self, headers: dict[str, str]) -> None:
        """Open the request's span, below the client's if its headers name one."""
        self.span = open_span(f"POST {self.path}", "server", headers)

    def call(self) -> CallContext:
        """Note that the replica is called now; what is to travel with the call."""
        self.called = clock()
        self.call_span = open_span(f"call {self.model}", "client", self.span) if self.span else None
        return CallContext(self.request_id, time.time(), traceparent_of(self.call_span))

    def answered(self) -> None:
        """Note that the replica's answer is complete, or that it will never be."""
        self.last = clock()
        close_span(self.call_span)
        self.call_span = None

    @property
    def task(self) -> str:
        """The name of the model's task."""
        return self.contract.name if self.contract else NO_MODEL

    def failed(self, error: ServingError) -> None:
        self.code = error.code

    def server_timing(self) -> bytes:
        """Server-Timing as far as it is known when the answer begins; milliseconds. https://www.w3.org/TR/server-timing/"""
        now = clock()
        total = now - self.arrived
        queue = self.queue_s or 0.0
        engine = self.engine_s
        if engine is None:
            engine = now - self.called - queue if self.called is not None and self.queue_s is not None else 0.0
        router = max(0.0, total - self.waited_s - queue - engine)
        parts = {"router": router, "queue": queue, "engine": engine}
        if self.waited_s:
            parts["wait"] = self.waited_s
        return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in parts.items()).encode()

    def close(self, status: int, meter: Meter) -> None:
        """Write the request down, once: metrics, a line of log, its span. Nothing of its content."""
        total = clock() - self.arrived
        self._meter(status, total, meter)
        close_span(
            self.span,
            error=self.code,
            http__request__method="POST",
            url__path=self.path,
            http__response__status_code=status,
            gen_ai__request__model=self.model,
            gen_ai__usage__input_tokens=self.usage[PROMPT_TOKENS] or None,
            gen_ai__usage__output_tokens=self.usage[COMPLETION_TOKENS] or None,
            medley__request_id=self.request_id,
        )
        if access_log.isEnabledFor(logging.INFO):
            fields = self._fields(status, total)
            access_log.info("%s %s %.1fms", self.path, status, total * 1000, extra=fields)

    def _meter(self, status: int, total: float, meter: Meter) -> None:
        meter.write(REQUESTS, 1, self.model, self.task, str(status))
        if self.code:
            meter.write(ERRORS, 1, self.model, self.task, self.code)
        elif status == 200:
            meter.write(DURATION, total, self.model, self.task)
        for count in self.contract.counts if self.contract else ():
            if amount := self.usage[count]:
                labels = (self.model, self.task, *([count.value] if count.value else []))
                meter.write(COUNTERS[count.counter], amount, *labels)
        self._meter_promises(total, meter)

    def _meter_promises(self, total: float, meter: Meter) -> None:
        """What the task's promises are about, beside the duration."""
        begins = self.contract.begins if self.contract and self.stream and self.first is not None else None
        if begins is Begins.TOKENS and self.first is not None:
            meter.write(FIRST_TOKEN, self.first - self.arrived, self.model)
            others = self.usage[COMPLETION_TOKENS] - 1
            if others > 0 and self.last is not None:
                meter.write(OUTPUT_TOKEN, (self.last - self.first) / others, self.model)
        if begins is Begins.AUDIO and self.first is not None:
            meter.write(FIRST_AUDIO, self.first - self.arrived, self.model)
        if sound := self.usage[AUDIO_SECONDS]:
            meter.write(REAL_TIME_FACTOR, total / sound, self.model)

    def _counted(self) -> dict[str, float]:
        """What was used up, by the names of the task's counts; of tokens always, which tools read."""
        counts = self.contract.counts if self.contract else ()
        return {count.name: self.usage[count] for count in dict.fromkeys((PROMPT_TOKENS, COMPLETION_TOKENS, *counts))}

    def _fields(self, status: int, total: float) -> dict[str, Any]:
        seconds = {"wait_ms": self.waited_s, "queue_ms": self.queue_s, "engine_ms": self.engine_s, "total_ms": total}
        fields: dict[str, Any] = {
            "event": "request",
            "request_id": self.request_id,
            "path": self.path,
            "status": status,
            "model": self.model,
            "task": self.task,
            "stream": self.stream,
            **self._counted(),
            **{name: round(value * 1000, 2) for name, value in seconds.items() if value is not None},
        }
        if self.code:
            fields["code"] = self.code
        if self.engine_s is not None:
            others = self.waited_s + (self.queue_s or 0.0) + self.engine_s
            fields["router_ms"] = round(max(0.0, total - others) * 1000, 2)
        return fields


def record_of(scope: Scope) -> RequestRecord:
    """The record of a request that came through RequestContext."""
    return scope["record"]
