"""The router's way to models, to servers in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from deployments.mailbox import MemoryMailbox, conversed
from deployments.router.dispatch import Deadline, ModelState, State, estimate_of, items_of, not_deployed, result_of
from deployments.router.record import RequestRecord
from deployments.servers.calls import Estimate, Terms
from models.specs import ModelSpec
from models.tasks.methods import A, Ask, Duplex, Q, Stream, Unary

if TYPE_CHECKING:
    from deployments.servers.engine import EngineServer


class LocalDispatcher:
    """Calls servers as their replicas are called, without Serve between.

    Args:
        servers: by the names of their applications.
        states: states of models that differ from READY.
    """

    def __init__(self, servers: Mapping[str, EngineServer], states: Mapping[str, ModelState] | None = None):
        self.servers = dict(servers)
        ready = {model: ModelState(State.READY, "fake", since=0.0, replicas=1) for model in servers}
        self._states = ready | dict(states or {})

    def states(self) -> Mapping[str, ModelState]:
        return self._states

    def age_s(self) -> float:
        return 0.0

    def become(self, model: str, state: ModelState) -> None:
        """Change what `states` tells of a model."""
        self._states[model] = state

    def wake(self, model: str) -> None:
        self.become(model, ModelState(State.READY, self._states[model].variant, replicas=1))

    async def estimate(self, spec: ModelSpec, ask: Ask[Any, Any], terms: Terms) -> Estimate:
        return estimate_of(await self._server(spec).estimate(ask.method.name, ask.request, terms))

    def queued(self, model: str) -> AbstractContextManager[None]:
        return nullcontext()

    async def call(
        self, spec: ModelSpec, method: Unary[Q, A], asked: Q, *, deadline: Deadline, record: RequestRecord
    ) -> A:
        server = self._server(spec)
        with record.call(spec, method.name, self._states[spec.id].variant) as call:
            try:
                async with asyncio.timeout(deadline.left()):
                    return result_of(await server.serve(call.context(), method.name, asked), call)
            except TimeoutError:
                raise deadline.exceeded() from None

    async def stream(
        self, spec: ModelSpec, method: Stream[Q, A], asked: Q, *, deadline: Deadline, record: RequestRecord
    ) -> AsyncGenerator[A, None]:
        server = self._server(spec)
        with record.call(spec, method.name, self._states[spec.id].variant) as call:
            replies = server.serve_stream(call.context(), method.name, asked)
            try:
                async with aclosing(replies), aclosing(items_of(replies, call, deadline.limit)) as items:
                    async for item in items:
                        yield item
            except TimeoutError:
                raise deadline.exceeded() from None

    async def converse(
        self,
        spec: ModelSpec,
        method: Duplex[Q, A],
        incoming: AsyncIterator[Q],
        *,
        deadline: Deadline,
        record: RequestRecord,
    ) -> AsyncGenerator[A, None]:
        stream: Any = self.stream
        call = partial(stream, spec, method, deadline=deadline, record=record)
        async with aclosing(conversed(MemoryMailbox(), incoming, call)) as items:
            async for item in items:
                yield item

    def _server(self, spec: ModelSpec) -> Any:
        if spec.id not in self.servers:
            raise not_deployed(spec.id)
        return self.servers[spec.id]
