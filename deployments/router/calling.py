"""Calling models for a request: wait for a model to start if the client wants that, pass admission, then call.

A client sets how long it waits with `Prefer: wait=SECONDS` (RFC 7240). By default, requests wait up to the deadline for
a model that may scale to zero, because only a request brings it back, and BRIEF_S for one that lost its last replica
and is usually up again by then. For any other model that is not up they are refused at once, with a Retry-After.

A call whose replica dies before it has given anything is made again, once (suspects.py).

A client sets its own limit for the whole answer with `X-Deadline: SECONDS`. A request that would certainly miss it is
refused at once (admission.py), and one that does miss it is stopped.

Most requests call one model, with `call` or `stream`. One that calls several is admitted once and has one deadline:

    async with calling.admitted(request, spec) as calls:
        text = await calls.call(transcriber, TRANSCRIBE, sound)
        first, second = await asyncio.gather(calls.call(spec, EMBED, one), calls.call(spec, EMBED, other))
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from starlette.requests import HTTPConnection

from deployments.router.admission import AdmissionRequest, address_of, is_batch
from deployments.router.dispatch import Deadline, Lost, ModelState, State
from deployments.router.record import RequestRecord, record_of
from deployments.router.services import Services
from deployments.router.suspects import Watched
from models.errors import InvalidRequest, ModelStarting, ReplicaLost, ServingError
from models.specs import ModelSpec
from models.tasks.methods import A, Duplex, Q, Stream, Unary

# How often a waiting request checks whether its model is up.
LOOK_S = 0.2
# The wait for a model that lost its last replica. Less than keep_alive_s: a refusal of a stream keeps its status.
BRIEF_S = 8.0
# How soon the router knows of a replica that is up: a lost call waits for one so long, whatever it knows now.
LEARN_S = 2.0

_SECONDS = re.compile(r"\d{1,6}(\.\d{1,3})?")
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([^\",;\s]*)", re.IGNORECASE)


async def call(request: HTTPConnection, spec: ModelSpec, method: Unary[Q, A], asked: Q) -> A:
    """Call a unary method, as the only call of a request."""
    async with Calls(request, spec, counted=not method.lookup) as calls:
        return await calls.call(spec, method, asked)


async def stream(request: HTTPConnection, spec: ModelSpec, method: Stream[Q, A], asked: Q) -> AsyncGenerator[A, None]:
    """Call a streaming method, as the only call of a request. It starts when the first item is read."""
    async with admitted(request, spec) as calls, aclosing(calls.stream(spec, method, asked)) as items:
        async for item in items:
            yield item


def admitted(request: HTTPConnection, spec: ModelSpec) -> Calls:
    """`async with admitted(...) as calls`: wait until the model is up, admit the request, then make calls.

    A request is admitted once, by the promise for its main model. Calls of other models pass no admission of their own,
    and their time counts as time of the main model's requests. So the main model should be the one that the request
    keeps busy longest.

    Raises:
        TooBusy: the request would miss the model's promise or the client's own deadline.
        InvalidRequest: a header cannot be read.
        ServingError: see `until_up`.
    """
    return Calls(request, spec)


class Calls:
    """The calls of one request. Each waits until its model is up, within the request's deadline.

    Calls may run at the same time. Those still running when the request ends are cancelled.

    Args:
        spec: the request's main model.
        counted: whether it counts as one of that model's requests. If not, it is always admitted.
    """

    def __init__(self, request: HTTPConnection, spec: ModelSpec, counted: bool = True):
        self.services: Services = request.app.state.services
        self.record = record_of(request.scope)
        self.spec = spec
        wanted_s = wanted_deadline(request)
        self.wait_s = wanted_wait(request)
        # Of a WebSocket, each group of calls has its own.
        self.deadline = request.scope.get("deadline") or Deadline.within(self.services.deadline_s, wanted_s)
        asked = admission_request(request, self.record, wanted_s)
        self.record.patient = asked.batch
        self._asked = asked if counted else None
        self._place: contextlib.AbstractContextManager[None] | None = None
        self._under_way: list[asyncio.Task[Any]] = []  # once for each call: a task may call while it reads a stream

    async def __aenter__(self) -> Self:
        self.record.is_for(self.spec)
        await self.until_up(self.spec)
        if self._asked is not None:
            replicas = self.services.state(self.spec.id).replicas
            self._place = self.services.admission.admit(self.spec, replicas, self._asked, self.record)
            self._place.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._end()
        finally:
            if self._place is not None:
                self._place.__exit__(None, None, None)

    async def _end(self) -> None:
        """Cancel calls that still run: when one call of asyncio.gather fails, the others go on."""
        if left := set(self._under_way) - {running_task()}:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Note the task that makes a call, for as long as the call runs."""
        self._under_way.append(task := running_task())
        try:
            yield
        finally:
            self._under_way.remove(task)

    async def call(self, spec: ModelSpec, method: Unary[Q, A], asked: Q) -> A:
        """Call a unary method.

        Raises:
            ServingError: see `until_up` and Dispatcher.
        """
        with self._running():
            await self.until_up(spec)
            dispatcher = self.services.dispatcher
            watched = self.services.suspects.watch(spec.id, method, asked)
            while True:
                try:
                    async with watched.one_try(self.deadline):
                        return await dispatcher.call(spec, method, asked, deadline=self.deadline, record=self.record)
                except Lost as lost:
                    await self._again(spec, watched, lost)

    async def stream(self, spec: ModelSpec, method: Stream[Q, A], asked: Q) -> AsyncGenerator[A, None]:
        """Call a streaming method. Closing the iterator cancels the call. Raises like `call`."""
        with self._running():
            await self.until_up(spec)
            watched = self.services.suspects.watch(spec.id, method, asked)
            while True:
                try:
                    async with watched.one_try(self.deadline), aclosing(self._items(spec, method, asked)) as items:
                        async for item in items:
                            watched.answers()
                            yield item
                    return
                except Lost as lost:
                    await self._again(spec, watched, lost)

    def _items(self, spec: ModelSpec, method: Stream[Q, A], asked: Q) -> AsyncGenerator[A, None]:
        dispatcher = self.services.dispatcher
        return dispatcher.stream(spec, method, asked, deadline=self.deadline, record=self.record)

    async def _again(self, spec: ModelSpec, watched: Watched, lost: Lost) -> None:
        """Returns when a lost call can be made again.

        Raises:
            ReplicaLost: it is not to be, or no replica is up soon.
        """
        await watched.again(lost)
        try:
            await self.until_up(spec, at_least_s=LEARN_S)
        except ModelStarting as starting:
            raise ReplicaLost(lost.message, lost.param, starting.retry_after) from None

    async def converse(
        self, spec: ModelSpec, method: Duplex[Q, A], incoming: AsyncIterator[Q]
    ) -> AsyncGenerator[A, None]:
        """Call a duplex method, with `incoming` as its requests; see Dispatcher. It is not made
        again. Raises like `call`."""
        with self._running():
            await self.until_up(spec)
            dispatcher = self.services.dispatcher
            items = dispatcher.converse(spec, method, incoming, deadline=self.deadline, record=self.record)
            async with aclosing(items):
                async for item in items:
                    yield item

    async def until_up(self, spec: ModelSpec, at_least_s: float = 0.0) -> None:
        """Wait until a model takes requests.

        Args:
            at_least_s: wait so long, unless the client says otherwise.

        Raises:
            ModelStarting, ModelFailed, ModelNotDeployed, ModelDraining: it still does not, and the client's wait is
                over.
            DeadlineExceeded: the request's deadline has passed.
        """
        services = self.services
        state = services.state(spec.id)
        if state.state is State.READY:
            return
        if state.state not in (State.LOADING, State.SCALED_TO_ZERO):
            raise services.refusal(spec.id, state)
        usual_s = max(at_least_s, usual_wait(state))
        wait_s = usual_s if self.wait_s is None else self.wait_s
        by_choice = wait_s < usual_s
        if wait_s == 0:
            if state.state is State.SCALED_TO_ZERO:
                services.dispatcher.wake(spec.id)
            raise self._not_up(spec, state, by_choice)
        started, waited_before = time.monotonic(), self.record.waited_s
        end = min(started + wait_s, self.deadline.end)
        with services.waiting.enter(), services.dispatcher.queued(spec.id):
            while (state := services.state(spec.id)).state is not State.READY:
                if state.state is State.SCALED_TO_ZERO:
                    services.dispatcher.wake(spec.id)
                elif state.state is not State.LOADING:
                    raise services.refusal(spec.id, state)
                if (now := time.monotonic()) >= end:
                    late = now >= self.deadline.end
                    raise self.deadline.exceeded() if late else self._not_up(spec, state, by_choice)
                await asyncio.sleep(min(LOOK_S, end - now))
                self.record.waited_s = waited_before + time.monotonic() - started

    def _not_up(self, spec: ModelSpec, state: ModelState, by_choice: bool) -> ServingError:
        error = self.services.refusal(spec.id, state)
        error.by_choice = by_choice
        return error


def usual_wait(state: ModelState) -> float:
    """How long a request waits for a model that is not up, in seconds, if its client does not say."""
    if state.wakes_on_request or state.state is State.SCALED_TO_ZERO:
        return math.inf
    return BRIEF_S if state.restarting and state.retry_after_s <= BRIEF_S else 0.0


def running_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # every handler runs in a task
    return task


def admission_request(request: HTTPConnection, record: RequestRecord, wanted_s: float | None) -> AdmissionRequest:
    """The facts for admission. `wanted_s` comes from `wanted_deadline`."""
    batch = is_batch(request.headers.get("priority"))
    return AdmissionRequest(address_of(request), batch, wanted_s, record.most_tokens, record.sequences)


def wanted_deadline(request: HTTPConnection) -> float | None:
    """The client's limit for the whole answer in seconds, or None.

    Raises:
        InvalidRequest: `X-Deadline` is not a number of seconds above 0.
    """
    text = request.headers.get("x-deadline")
    if text is None:
        return None
    if not _SECONDS.fullmatch(text) or not float(text):
        raise InvalidRequest(
            "The header X-Deadline takes a number of seconds above 0, such as X-Deadline: 30.", "X-Deadline"
        )
    return float(text)


def wanted_wait(request: HTTPConnection) -> float | None:
    """How many seconds the client wants to wait for a model that is not up, or None.

    Raises:
        InvalidRequest: `Prefer: wait=` is not a number of seconds.
    """
    found = _WAIT.search(", ".join(request.headers.getlist("prefer")))
    if not found:
        return None
    if not _SECONDS.fullmatch(found[1]):
        raise InvalidRequest("The header Prefer: wait= takes a number of seconds, such as wait=60.", "Prefer")
    return float(found[1])
