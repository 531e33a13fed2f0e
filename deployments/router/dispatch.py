"""The boundary between HTTP and models. The router calls models only through a Dispatcher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, Self

from deployments.router.growth import Growth, Scale, growth, growth_document
from deployments.router.record import Call, RequestRecord, clock
from deployments.servers.calls import Answer, Begun, Died, Ended, Estimate, Refused, Terms
from models.errors import DeadlineExceeded, ModelNotDeployed, ReplicaLost
from models.specs import ModelSpec
from models.tasks.methods import A, Ask, Duplex, Q, Stream, Unary


class State(StrEnum):
    """The state of a model on this cluster."""

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
        state: READY takes requests; SCALED_TO_ZERO starts on a request.
        variant, release: what is served, or is starting if no replica takes requests.
        since: Unix time of the last deployment; None if not deployed.
        replicas: how many replicas take requests now.
        draining: how many replicas finish their requests and take no new ones.
        phase, phase_since, fraction: progress of the replica that started first; see servers/cold_start.py.
        cause, remedy: why the last attempt to start a replica failed, for clients and operators, without internals.
            A READY model has them too, if a new version failed and the old one still serves.
        retry_after_s: for LOADING and SCALED_TO_ZERO, seconds until it is probably ready.
        wakes_on_request: an operator lets it scale to zero, so clients wait for it by default.
        restarting: for LOADING, it was ready, and lost its last replica.
        scale: how many replicas are wanted, start and may be, and what is asked of them; see `growth`.
        paces: what requests of growing size take alone, by variant, for those that have run here; see PACE in board.py.
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
    restarting: bool = False
    scale: Scale = field(default_factory=Scale)
    paces: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def growth(self) -> Growth:
        """Whether more replicas come, may come, or have no place."""
        return growth(self.replicas, self.scale)

    @property
    def takes_requests(self) -> bool:
        return self.state in (State.READY, State.SCALED_TO_ZERO)

    @property
    def is_waking(self) -> bool:
        """Its requests wait for it, because somebody's request has woken it."""
        return self.state is State.LOADING and self.wakes_on_request

    def document(self) -> dict[str, Any]:
        """The form in /readyz."""
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
        if self.scale.most is not None:
            document["scaling"] = growth_document(self.replicas, self.scale)
        if self.cause:
            document |= {"cause": self.cause, "remedy": self.remedy}
        return document


# Retry-After for states that only an operator can change.
OPERATOR_S = 60.0
# After this many seconds without an answer of the control plane, states are no longer vouched for.
BLIND_S = 30.0

NOT_DEPLOYED = ModelState(State.NOT_DEPLOYED)


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a request must end, whatever it still waits for.

    Attributes:
        seconds: the limit for the whole request.
        end: the time on the monotonic clock.
        by_choice: the client chose it.
    """

    seconds: float
    end: float
    by_choice: bool = False

    @classmethod
    def after(cls, seconds: float, by_choice: bool = False) -> Self:
        return cls(seconds, time.monotonic() + seconds, by_choice)

    @classmethod
    def within(cls, most_s: float, wanted_s: float | None) -> Self:
        """The operator's limit, or the client's if that is shorter."""
        seconds = min(wanted_s or most_s, most_s)
        return cls.after(seconds, by_choice=seconds < most_s)

    def left(self) -> float:
        """Seconds; negative after the deadline."""
        return self.end - time.monotonic()

    def limit(self) -> asyncio.Timeout:
        """Around a wait. Raises TimeoutError when the deadline passes."""
        return asyncio.timeout(self.left())

    def exceeded(self) -> DeadlineExceeded:
        error = DeadlineExceeded(
            f"The request took longer than {self.seconds:g} s and was stopped. Ask for less, or try later."
        )
        error.by_choice = self.by_choice
        return error


class Lost(ReplicaLost):
    """A call ended with its replica.

    Attributes:
        replica: the id of the replica, or of its actor; None if not known.
        ran: it worked on the call when it died.
    """

    replica: str | None = None
    ran = True


def lost(message: str, replica: str | None, ran: bool, retry_after: float = 2.0) -> Lost:
    error = Lost(message, None, retry_after)
    error.replica, error.ran = replica, ran
    return error


class Dispatcher(Protocol):
    """Calls methods of models. Each call is made once.

    Each call is recorded in the request's record, with the replica's report on it: queue, engine, usage. Closing the
    iterator or cancelling the task cancels the call.

    Raises:
        ServingError: the model's own; RateLimited (its queue is full), Lost, ModelNotDeployed, DeadlineExceeded.
    """

    def states(self) -> Mapping[str, ModelState]:
        """The states of models on this cluster, by application name: `model` or `model@variant`.

        A snapshot that is refreshed in the background, so reading it is free."""
        ...

    def age_s(self) -> float:
        """Seconds since the states were last learnt."""
        ...

    def wake(self, model: str) -> None:
        """Start a model that is scaled to zero. Returns at once."""
        ...

    async def estimate(self, spec: ModelSpec, ask: Ask[Any, Any], terms: Terms) -> Estimate:
        """What would become of a request, as a replica tells."""
        ...

    def queued(self, model: str) -> AbstractContextManager[None]:
        """Around a request's wait for a model: its autoscaler counts those who wait."""
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
        """Send `incoming` to one replica, while its items come out.

        The replica may answer before, during and after the incoming pieces. While many pieces wait for the replica, no
        more are read. An exception from `incoming` ends the call and is raised here.
        """
        ...


def result_of(answer: Answer, call: Call) -> Any:
    """Unwrap a method's answer and record the replica's report in `call`. Raises the ServingError that it returned."""
    call.queue_s, call.engine_s, call.usage = answer.queue_s, answer.engine_s, answer.usage
    _raise_if_failed(answer.result, call)
    return answer.result


def _raise_if_failed(reply: Any, call: Call) -> None:
    if isinstance(reply, Refused):
        raise reply.error
    if isinstance(reply, Died):
        message = f"The engine of {call.model} died and is being replaced. Send the request again."
        raise lost(message, reply.replica, reply.ran)


def estimate_of(found: Estimate | Refused) -> Estimate:
    """Raises the ServingError that a replica answered with."""
    if isinstance(found, Refused):
        raise found.error
    return found


async def items_of(
    replies: AsyncIterator[Any], call: Call, limit: Callable[[], asyncio.Timeout]
) -> AsyncGenerator[Any, None]:
    """Unwrap a method's items from what its replica sends: Begun, items and Ended, or at any point Refused or Died.

    Args:
        limit: gives the limit of one wait, such as `Deadline.limit`.

    Raises:
        ServingError: the one that the method ended with.
        TimeoutError: a wait took longer than its limit.
    """
    while True:
        try:
            async with limit():
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
        else:
            _raise_if_failed(reply, call)
            yield reply


def not_deployed(model: str, served: Sequence[str] = ()) -> ModelNotDeployed:
    """The error for a model of the catalog that no application serves.

    Args:
        served: names of other variants that are served.
    """
    advice = f"Of the same model there is {' and '.join(served)}." if served else "Ask its operator."
    message = f"The model {model!r} is known but not deployed on this cluster. {advice}"
    return ModelNotDeployed(message, "model", OPERATOR_S)
