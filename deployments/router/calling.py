"""Calling models for a request: wait for a model to start if the client wants that, then call, on the promise's terms.

A client sets how long it waits with `Prefer: wait=SECONDS` (RFC 7240). By default, requests wait up to the deadline for
a model that may scale to zero, because only a request brings it back, and BRIEF_S for one that lost its last replica
and is usually up again by then. For any other model that is not up they are refused at once, with a Retry-After.

A call whose replica dies before it has given anything is made again, once (suspects.py).

A replica refuses a call that would break a promise. Then it is tried once more where there are other replicas, or once
another one is up, if that is soon enough. Otherwise the client is told when it may come again (returns.py).

A client sets its own limit for the whole answer with `X-Deadline: SECONDS`. A request that would certainly miss it is
refused at once, and one that does miss it is stopped.

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
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from starlette.requests import HTTPConnection

from deployments.router.callers import address_of, identity_of, is_batch
from deployments.router.dispatch import Deadline, Lost, ModelState, State
from deployments.router.promises import Asker
from deployments.router.record import clock, record_of
from deployments.router.returns import WORTH_IT, in_time, worth_waiting
from deployments.router.services import Services
from deployments.router.suspects import Watched
from models.errors import AtCapacity, InvalidRequest, ModelStarting, NoRoom, ReplicaLost, ServingError, TooBusy
from models.specs import ModelSpec
from models.tasks.methods import A, Duplex, Method, Q, Stream, Unary

# How often a waiting request checks whether its model is up.
LOOK_S = 0.2
# The wait for a model that lost its last replica. Less than keep_alive_s: a refusal of a stream keeps its status.
BRIEF_S = 8.0
# How soon the router knows of a replica that is up: a lost call waits for one so long, whatever it knows now.
LEARN_S = 2.0
# Between two tries of one that waits for room.
LEAST_WAIT_S = 0.05

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

    A request is admitted once, by the promise for its main model, with its first call of it. Calls of other models pass
    no admission of their own. So the main model should be the one that the request keeps busy longest.

    Raises:
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
        self.asker = asker_of(request, wanted_s)
        self.admitted = not counted
        self._under_way: list[asyncio.Task[Any]] = []  # once for each call: a task may call while it reads a stream

    async def __aenter__(self) -> Self:
        self.record.is_for(self.spec)
        self.record.terms = self.services.promises.terms(self.spec.id, self.asker, self.record.stream)
        await self.until_up(self.spec)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

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
            admission = Admission(self, spec, method, asked)
            while True:
                try:
                    async with watched.one_try(self.deadline):
                        answer = await dispatcher.call(spec, method, asked, deadline=self.deadline, record=self.record)
                        self._note_admitted(spec, admission)
                        return answer
                except Lost as lost:
                    await self._again(spec, watched, lost)
                except TooBusy as busy:
                    await admission.refused(busy)

    async def stream(self, spec: ModelSpec, method: Stream[Q, A], asked: Q) -> AsyncGenerator[A, None]:
        """Call a streaming method. Closing the iterator cancels the call. Raises like `call`."""
        with self._running():
            await self.until_up(spec)
            watched = self.services.suspects.watch(spec.id, method, asked)
            admission = Admission(self, spec, method, asked)
            while True:
                try:
                    async with watched.one_try(self.deadline), aclosing(self._items(spec, method, asked)) as items:
                        async for item in items:
                            self._note_admitted(spec, admission)
                            watched.answers()
                            yield item
                    return
                except Lost as lost:
                    await self._again(spec, watched, lost)
                except TooBusy as busy:
                    await admission.refused(busy)

    def _items(self, spec: ModelSpec, method: Stream[Q, A], asked: Q) -> AsyncGenerator[A, None]:
        dispatcher = self.services.dispatcher
        return dispatcher.stream(spec, method, asked, deadline=self.deadline, record=self.record)

    def _note_admitted(self, spec: ModelSpec, admission: Admission) -> None:
        """A replica has answered, or begun to. What the call took besides is the overhead; of a stream, the way back is
        taken to be as long as the way there."""
        if self.admitted or not admission.decides:
            return
        self.admitted = True
        call = self.record.primary
        if call is not None and call.queue_s is not None:
            whole = call.engine_s is not None
            seconds = clock() - call.called - (call.engine_s or 0.0) if whole else 2 * call.queue_s
            self.services.promises.overhead(spec.id).learn(seconds, time.monotonic())

    async def _again(self, spec: ModelSpec, watched: Watched, lost: Lost) -> None:
        """Returns when a lost call can be made again.

        Raises:
            ReplicaLost: it is not to be, or no replica is up soon.
        """
        await watched.again(lost)
        self.record.terms = replace(self.record.terms, sure=True)
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
            Admission(self, spec, method, incoming)
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


class Admission:
    """One call's way past the admission of replicas: its terms, and what becomes of a refusal."""

    def __init__(self, calls: Calls, spec: ModelSpec, method: Method[Any, Any], asked: Any):
        services, record, now = calls.services, calls.record, time.monotonic()
        self.calls, self.spec = calls, spec
        self.tried = 0
        self.waited = False
        self.returns = services.promises.refused_by(spec.id)
        self.decides = spec.id == calls.spec.id and not calls.admitted
        if calls.admitted:
            record.terms = replace(record.terms, sure=True)
        if not self.decides:
            return
        self._digest = partial(self._digest_of, method.name, asked)
        turn = self.returns.comes(self._digest(), now) if self.returns else None
        replicas = max(1, services.state(spec.id).replicas)
        record.terms = replace(
            record.terms,
            again=turn is not None,
            returns=turn is not None and in_time(turn, now),
            ahead_s=self.returns.ahead_s(now) / replicas,
            told_s=self.returns.pending_s(now),
        )

    async def refused(self, busy: TooBusy) -> None:
        """Returns when the call can be tried again.

        Raises:
            TooBusy: it is not to be; with the time after which the client may come again.
        """
        calls, state = self.calls, self.calls.services.state(self.spec.id)
        if not self.decides or calls.record.terms.sure:
            raise busy
        calls.record.terms = replace(calls.record.terms, again=True)
        self.tried += 1
        if self.tried == 1 and state.replicas > 1:
            return  # another one may have room
        if await self._room_in_its_turn(busy):
            return
        if not await self._another_is_up(state):
            raise self._refusal(busy, state)

    async def _room_in_its_turn(self, busy: TooBusy) -> bool:
        """One that came when it was told to waits for room, if it can still be answered in time then. Who has waited is
        not refused: if room does not come when it was predicted, it is let in without."""
        terms = replace(self.calls.record.terms, waited_s=clock() - self.calls.record.arrived)
        if not terms.returns:
            return False
        if worth_waiting(terms, busy):
            self.waited = True
            with self.calls.services.waiting.enter(), self.returns.waits(busy.work_s):
                await asyncio.sleep(max(LEAST_WAIT_S, busy.room_s))
        elif self.waited:
            self.calls.record.terms = replace(self.calls.record.terms, sure=True)
        return self.waited

    async def _another_is_up(self, state: ModelState) -> bool:
        """Wait for a replica that starts, if it is ready before the promise is broken."""
        terms, growth = self.calls.record.terms, state.growth
        left_s = min(terms.first_s, terms.whole()) - (clock() - self.calls.record.arrived)
        if not growth.growing or growth.ready_in_s is None or growth.ready_in_s > WORTH_IT * left_s:
            return False
        services, before = self.calls.services, state.replicas
        end = time.monotonic() + min(WORTH_IT * left_s, self.calls.deadline.left())
        with services.waiting.enter():
            while services.state(self.spec.id).replicas <= before:
                if time.monotonic() >= end:
                    return False
                await asyncio.sleep(LOOK_S)
        return True

    def _refusal(self, busy: TooBusy, state: ModelState) -> TooBusy:
        replicas, growth = max(1, state.replicas), state.growth
        seconds = self.returns.refused(self._digest(), busy, replicas, time.monotonic())
        kind, why = TooBusy, ""
        if growth.at_most and not growth.growing:
            kind, why = AtCapacity, f" All {replicas} replicas that it may have are busy." if replicas > 1 else ""
        elif growth.no_room:
            kind, why = NoRoom, " The cluster has no room for another replica of it."
        return kind(f"{self.spec.id} {busy.message}{why} Try again in {seconds} s.", None, float(seconds))

    def _digest_of(self, method: str, asked: Any) -> bytes:
        identity = self.calls.asker.identity
        return self.calls.services.suspects.digest(f"{self.spec.id} {identity}", method, asked)


def usual_wait(state: ModelState) -> float:
    """How long a request waits for a model that is not up, in seconds, if its client does not say."""
    if state.wakes_on_request or state.state is State.SCALED_TO_ZERO:
        return math.inf
    return BRIEF_S if state.restarting and state.retry_after_s <= BRIEF_S else 0.0


def running_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # every handler runs in a task
    return task


def asker_of(request: HTTPConnection, wanted_s: float | None) -> Asker:
    """Who asks. `wanted_s` comes from `wanted_deadline`."""
    return Asker(
        address_of(request), identity_of(request), is_batch(request.headers.get("priority")), wanted_s or math.inf
    )


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
