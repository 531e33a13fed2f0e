"""The seam between HTTP and models. The router knows models only through a Dispatcher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, Self

from deployments.router.record import Call, RequestRecord, clock
from deployments.servers.calls import Answer, Begun, Ended, Refused
from models.errors import DeadlineExceeded, ModelNotDeployed
from models.specs import ModelSpec
from models.tasks.methods import A, Duplex, Q, Stream, Unary


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


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a request has to be over, whatever it still waits for.

    Attributes:
        seconds: that the whole request may take.
        end: on the monotonic clock.
    """

    seconds: float
    end: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        return cls(seconds, time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds; negative when it is past."""
        return self.end - time.monotonic()

    def exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"The request took longer than {self.seconds:g} s and was stopped. Ask for less, or try later."
        )


class Dispatcher(Protocol):
    """Calls methods of models' servers.

    Each call is noted in the request's record, with what the replica says of it: queue, engine, usage. Leaving early
    (closing the iterator, cancelling the task) cancels it.

    Raises:
        ServingError: of the model; RateLimited (its queue is full), ReplicaLost, ModelNotDeployed or DeadlineExceeded.
    """

    def states(self) -> Mapping[str, ModelState]:
        """Models on this cluster by the names of their applications: `model` or `model@variant`.

        A snapshot, made in the background: costs nothing to read."""
        ...

    def wake(self, model: str) -> None:
        """Bring up a model that is scaled to zero. Returns at once."""
        ...

    async def call(
        self, spec: ModelSpec, method: Unary[Q, A], asked: Q, *, deadline: Deadline, record: RequestRecord
    ) -> A: ...

    def stream(
        self, spec: ModelSpec, method: Stream[Q, A], asked: Q, *, deadline: Deadline, record: RequestRecord
    ) -> AsyncGenerator[A, None]: ...

    def converse(
        self,
        spec: ModelSpec,
        method: Duplex[Q, A],
        incoming: AsyncIterator[Q],
        *,
        deadline: Deadline,
        record: RequestRecord,
    ) -> AsyncGenerator[A, None]:
        """Send what comes in to one replica, while its items come out.

        The replica may answer before, while and after pieces come. No further piece is asked for while many wait for
        the replica. What `incoming` raises ends the call, and is raised here. A call whose replica is lost is not made
        again.
        """
        ...


def result_of(answer: Answer, call: Call) -> Any:
    """What a method gave; what the replica says of it is noted in the call. Raises the ServingError that it gave."""
    call.queue_s, call.engine_s, call.usage = answer.queue_s, answer.engine_s, answer.usage
    if isinstance(answer.result, Refused):
        raise answer.result.error
    return answer.result


async def items_of(replies: AsyncIterator[Any], call: Call, deadline: Deadline) -> AsyncGenerator[Any, None]:
    """The items that a method gave, out of what its replica sends: Begun, items and Ended, or Refused at any point.

    Raises:
        ServingError: that the method ended in.
        TimeoutError: the deadline is past.
    """
    while True:
        try:
            async with asyncio.timeout(deadline.left()):
                reply = await anext(replies)
        except StopAsyncIteration:
            return
        if type(reply) is bytes:
            yield reply
        elif isinstance(reply, Begun):
            call.first, call.queue_s = clock(), reply.queue_s
            yield reply.item
        elif isinstance(reply, Ended):
            call.engine_s, call.usage = reply.engine_s, reply.usage
        elif isinstance(reply, Refused):
            raise reply.error
        else:
            yield reply


def not_deployed(model: str, served: Sequence[str] = ()) -> ModelNotDeployed:
    """The error for a model of the catalog that no application serves.

    Args:
        served: names of other variants of it that are served.
    """
    advice = f"Of the same model there is {' and '.join(served)}." if served else "Ask its operator."
    message = f"The model {model!r} is known but not deployed on this cluster. {advice}"
    return ModelNotDeployed(message, "model", OPERATOR_S)
