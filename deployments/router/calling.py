"""Calling a model for a request: wait for it if it is not up and the client wants to wait, be let in, then call.

How long a client waits, it says with `Prefer: wait=SECONDS` (RFC 7240). Without it, a model that an operator lets scale
to zero is waited for up to the deadline, because to be asked is what brings it back; any other model that is not up is
refused at once, with a Retry-After.

Within how many seconds the whole answer is wanted, it says with `X-Deadline: SECONDS`. A request that would surely miss
that is refused at once (admission.py), and one that does miss it is stopped.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request

from deployments.router.admission import Asker, is_batch, key_of
from deployments.router.dispatch import State, past
from deployments.router.record import RequestRecord, record_of
from deployments.router.services import Services
from models.errors import InvalidRequest
from models.specs import ModelSpec
from models.tasks.methods import A, Q, Stream, Unary

# How often a waiting request looks whether its model is up.
LOOK_S = 0.2

_SECONDS = re.compile(r"\d{1,6}(\.\d{1,3})?")
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([^\",;\s]*)", re.IGNORECASE)


async def call(request: Request, spec: ModelSpec, method: Unary[Q, A], asked: Q) -> A:
    """What a method of the model's server answers."""
    services: Services = request.app.state.services
    record = record_of(request.scope)
    wanted = wanted_deadline(request)
    left = min(await until_up(services, spec, record, wanted_wait(request)), wanted or services.deadline_s)
    if method.lookup:
        return await services.dispatcher.call(spec.id, method, asked, deadline=left, record=record)
    with services.admission.one(spec, services.state(spec.id).replicas, asker(request, record, wanted), record):
        return await services.dispatcher.call(spec.id, method, asked, deadline=left, record=record)


async def stream(request: Request, spec: ModelSpec, method: Stream[Q, A], asked: Q) -> AsyncGenerator[A, None]:
    """What a streaming method of the model's server gives. Nothing happens before the first item is asked for."""
    services: Services = request.app.state.services
    record = record_of(request.scope)
    wanted = wanted_deadline(request)
    left = min(await until_up(services, spec, record, wanted_wait(request)), wanted or services.deadline_s)
    with services.admission.one(spec, services.state(spec.id).replicas, asker(request, record, wanted), record):
        items = services.dispatcher.stream(spec.id, method, asked, deadline=left, record=record)
        async with aclosing(items):
            async for item in items:
                yield item


def asker(request: Request, record: RequestRecord, deadline_s: float | None) -> Asker:
    key, batch = key_of(request.headers.get("authorization")), is_batch(request.headers.get("priority"))
    return Asker(key, batch, deadline_s, record.most_tokens)


def wanted_deadline(request: Request) -> float | None:
    """Seconds within which the client wants the whole answer; None if it does not say.

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


def wanted_wait(request: Request) -> float | None:
    """Seconds that the client is ready to wait for a model that is not up; None if it does not say.

    Raises:
        InvalidRequest: `Prefer: wait=` is not a number of seconds.
    """
    found = _WAIT.search(", ".join(request.headers.getlist("prefer")))
    if not found:
        return None
    if not _SECONDS.fullmatch(found[1]):
        raise InvalidRequest("The header Prefer: wait= takes a number of seconds, such as wait=60.", "Prefer")
    return float(found[1])


async def until_up(services: Services, spec: ModelSpec, record: RequestRecord, wait: float | None) -> float:
    """Wait until the model takes requests. Returns the seconds that are left of the request's deadline.

    Raises:
        ModelStarting, ModelFailed, ModelNotDeployed, ModelDraining: it does not, and the client has waited enough.
    """
    record.is_for(spec)
    state = services.state(spec.id)
    if state.state is State.READY:
        return services.deadline_s
    if wait is None:
        wakes = state.wakes_on_request or state.state is State.SCALED_TO_ZERO
        wait = services.deadline_s if wakes else 0.0
    if state.state not in (State.LOADING, State.SCALED_TO_ZERO):
        raise services.refusal(spec.id, state)
    if wait == 0:
        if state.state is State.SCALED_TO_ZERO:
            services.dispatcher.wake(spec.id)
        raise services.refusal(spec.id, state)
    started = time.perf_counter()
    end = started + min(wait, services.deadline_s)
    with services.waiting.one():
        while (state := services.state(spec.id)).state is not State.READY:
            if state.state is State.SCALED_TO_ZERO:
                services.dispatcher.wake(spec.id)
            elif state.state is not State.LOADING:
                raise services.refusal(spec.id, state)
            if time.perf_counter() >= end:
                if wait >= services.deadline_s:
                    raise past(services.deadline_s)
                raise services.refusal(spec.id, state)
            await asyncio.sleep(min(LOOK_S, max(0.0, end - time.perf_counter())))
            record.waited_s = time.perf_counter() - started
    return services.deadline_s - record.waited_s
