"""The seam between HTTP and models. The router knows models only through a Dispatcher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from models.errors import DeadlineExceeded, ModelNotDeployed


class State(StrEnum):
    """What a model of the catalog is doing on this cluster."""

    READY = "ready"
    SCALED_TO_ZERO = "scaled_to_zero"
    LOADING = "loading"
    FAILED = "failed"
    NOT_DEPLOYED = "not_deployed"


@dataclass(frozen=True, slots=True)
class ModelState:
    """
    Attributes:
        state: READY and SCALED_TO_ZERO take requests; a request to the latter waits for a replica.
        variant: the variant that is served.
        since: Unix time of the last deployment, None when not deployed.
        cause: for FAILED, one line for clients and operators, without internals.
        replicas: replicas that take requests now.
        retry_after_s: for LOADING, seconds after which it is likely to be ready.
    """

    state: State
    variant: str | None = None
    since: float | None = None
    cause: str | None = None
    replicas: int = 0
    retry_after_s: float = 10.0

    @property
    def takes_requests(self) -> bool:
        return self.state in (State.READY, State.SCALED_TO_ZERO)


# Retry-After of what only an operator can change.
OPERATOR_S = 60.0

NOT_DEPLOYED = ModelState(State.NOT_DEPLOYED)


class Dispatcher(Protocol):
    """Calls a model's server by method name.

    Both raise the ServingErrors of the model, and RateLimited (its queue is full), ReplicaLost, ModelNotDeployed or
    DeadlineExceeded of their own. `deadline` is seconds from now for the whole call. `large` says that the request or
    its answer may be over half a megabyte. Leaving early (closing the iterator, cancelling the task) cancels the call.
    """

    def states(self) -> Mapping[str, ModelState]:
        """Models on this cluster by catalog id. A snapshot, made in the background: costs nothing to read."""
        ...

    def stream(
        self, model: str, method: str, *args: Any, deadline: float, large: bool = False
    ) -> AsyncGenerator[Any, None]: ...

    async def call(self, model: str, method: str, *args: Any, deadline: float, large: bool = False) -> Any: ...


class LocalDispatcher:
    """Runs servers in this process: for tests, and to serve without a cluster.

    Args:
        servers: by catalog id, objects with the methods of a model's server.
        states: states of models that differ from READY.
    """

    def __init__(self, servers: Mapping[str, Any], states: Mapping[str, ModelState] | None = None):
        self.servers = servers
        self._states = {model: ModelState(State.READY, "fake", 0.0, replicas=1) for model in servers} | dict(
            states or {}
        )

    def states(self) -> Mapping[str, ModelState]:
        return self._states

    async def stream(
        self, model: str, method: str, *args: Any, deadline: float, large: bool = False
    ) -> AsyncGenerator[Any, None]:
        end = time.monotonic() + deadline
        async with aclosing(getattr(self._server(model), method)(*args)) as items:
            while True:
                try:
                    async with asyncio.timeout(end - time.monotonic()):
                        item = await anext(items)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise past(deadline) from None
                yield item

    async def call(self, model: str, method: str, *args: Any, deadline: float, large: bool = False) -> Any:
        try:
            async with asyncio.timeout(deadline):
                return await getattr(self._server(model), method)(*args)
        except TimeoutError:
            raise past(deadline) from None

    def _server(self, model: str) -> Any:
        if model not in self.servers:
            raise not_deployed(model)
        return self.servers[model]


def past(deadline: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"The request took longer than {deadline:g} s and was stopped. Ask for less, or try later.")


def not_deployed(model: str) -> ModelNotDeployed:
    message = f"The model {model!r} is known but not deployed on this cluster. Ask its operator."
    return ModelNotDeployed(message, "model", OPERATOR_S)
