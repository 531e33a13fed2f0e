"""The seam between HTTP and models. The router knows models only through a Dispatcher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from deployments.router.record import RequestRecord
from models.errors import DeadlineExceeded, ModelNotDeployed
from models.tasks.methods import A, Method, Q, Stream, Unary
from models.tasks.usage import NOTHING, Usage


class State(StrEnum):
    """What a model of the catalog is doing on this cluster."""

    READY = "ready"
    SCALED_TO_ZERO = "scaled_to_zero"
    LOADING = "loading"
    FAILED = "failed"
    DRAINING = "draining"
    NOT_DEPLOYED = "not_deployed"


@dataclass(frozen=True, slots=True)
class ModelState:
    """
    Attributes:
        state: READY takes requests; SCALED_TO_ZERO is brought up by one.
        variant, release: what is served; where no replica takes requests, what is on its way.
        since: Unix time of the last deployment, None when not deployed.
        replicas: replicas that take requests now.
        draining: replicas that finish what they have and take nothing new.
        phase, phase_since, fraction: how far the first replica has come that starts; see servers/cold_start.py.
        cause, remedy: why the last attempt to start a replica failed, for clients and operators, without internals.
            A READY model has them too when a new version of it failed and the old one goes on.
        retry_after_s: for LOADING and SCALED_TO_ZERO, seconds after which it is likely to be ready.
        wakes_on_request: an operator lets it scale to zero, so clients wait for it unless they say otherwise.
    """

    state: State
    variant: str | None = None
    since: float | None = None
    cause: str | None = None
    remedy: str | None = None
    replicas: int = 0
    release: str | None = None
    draining: int = 0
    phase: str | None = None
    phase_since: float | None = None
    fraction: float | None = None
    retry_after_s: float = 10.0
    wakes_on_request: bool = False

    @property
    def takes_requests(self) -> bool:
        return self.state in (State.READY, State.SCALED_TO_ZERO)

    def document(self) -> dict[str, Any]:
        """As /readyz tells it."""
        document: dict[str, Any] = {
            "state": self.state,
            "variant": self.variant,
            "release": self.release,
            "replicas": self.replicas,
        }
        if self.draining:
            document["draining"] = self.draining
        if self.phase:
            document |= {"phase": self.phase, "since": self.phase_since}
        if self.fraction is not None:
            document["fraction"] = self.fraction
        if self.state is State.LOADING:
            document["retry_after_s"] = round(self.retry_after_s, 1)
        if self.cause:
            document |= {"cause": self.cause, "remedy": self.remedy}
        return document


# Retry-After of what only an operator can change.
OPERATOR_S = 60.0

NOT_DEPLOYED = ModelState(State.NOT_DEPLOYED)


class Dispatcher(Protocol):
    """Calls a method of a model's server.

    Both raise the ServingErrors of the model, and RateLimited (its queue is full), ReplicaLost, ModelNotDeployed or
    DeadlineExceeded of their own. `deadline` is seconds from now for the whole call. Leaving early (closing the
    iterator, cancelling the task) cancels the call. What it says of itself (queue, engine, usage) is noted in `record`.
    """

    def states(self) -> Mapping[str, ModelState]:
        """Models on this cluster by the names of their applications: `model` or `model@variant`.

        A snapshot, made in the background: costs nothing to read."""
        ...

    def wake(self, model: str) -> None:
        """Bring up a model that is scaled to zero. Returns at once."""
        ...

    def stream(
        self, model: str, method: Stream[Q, A], asked: Q, *, deadline: float, record: RequestRecord
    ) -> AsyncGenerator[A, None]: ...

    async def call(self, model: str, method: Unary[Q, A], asked: Q, *, deadline: float, record: RequestRecord) -> A: ...


class LocalDispatcher:
    """Runs servers in this process: for tests, and to serve without a cluster.

    Args:
        servers: by application, objects with the methods of a model's server.
        states: states of models that differ from READY.
    """

    def __init__(self, servers: Mapping[str, Any], states: Mapping[str, ModelState] | None = None):
        self.servers = servers
        ready = {model: ModelState(State.READY, "fake", since=0.0, replicas=1) for model in servers}
        self._states = ready | dict(states or {})

    def states(self) -> Mapping[str, ModelState]:
        return self._states

    def become(self, model: str, state: ModelState) -> None:
        """Change what `states` tells of a model."""
        self._states[model] = state

    def wake(self, model: str) -> None:
        self.become(model, ModelState(State.READY, self._states[model].variant, replicas=1))

    async def stream(
        self, model: str, method: Stream[Q, A], asked: Q, *, deadline: float, record: RequestRecord
    ) -> AsyncGenerator[A, None]:
        record.call()
        began = time.perf_counter()
        end = time.monotonic() + deadline
        async with aclosing(self._handler(model, method)(asked)) as items:
            while True:
                try:
                    async with asyncio.timeout(end - time.monotonic()):
                        item = await anext(items)
                except StopAsyncIteration:
                    record.answered()
                    record.engine_s = time.perf_counter() - began
                    return
                except TimeoutError:
                    raise past(deadline) from None
                if isinstance(item, Usage):
                    record.usage = item
                    continue
                record.first = record.first or time.perf_counter()
                record.queue_s = 0.0
                yield item

    async def call(self, model: str, method: Unary[Q, A], asked: Q, *, deadline: float, record: RequestRecord) -> A:
        record.call()
        began = time.perf_counter()
        try:
            async with asyncio.timeout(deadline):
                result = await self._handler(model, method)(asked)
        except TimeoutError:
            raise past(deadline) from None
        finally:
            record.answered()
        record.queue_s, record.usage = 0.0, getattr(result, "usage", NOTHING)
        record.engine_s = time.perf_counter() - began
        return result

    def _handler(self, model: str, method: Method[Any, Any]) -> Any:
        if model not in self.servers:
            raise not_deployed(model)
        return getattr(self.servers[model], method.name)


def past(deadline: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"The request took longer than {deadline:g} s and was stopped. Ask for less, or try later.")


def not_deployed(model: str, served: Sequence[str] = ()) -> ModelNotDeployed:
    """The error for a model of the catalog that no application serves.

    Args:
        served: names of other variants of it that are served.
    """
    advice = f"Of the same model there is {' and '.join(served)}." if served else "Ask its operator."
    message = f"The model {model!r} is known but not deployed on this cluster. {advice}"
    return ModelNotDeployed(message, "model", OPERATOR_S)
