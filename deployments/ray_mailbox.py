"""A mailbox in an actor, so that replicas on every node can read from it."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.mailbox import MemoryMailbox

# Calls wait inside the actor, up to two per conversation: one from the router and one from its replica.
MOST_CALLS = 10_000


class RayMailbox:
    """An actor on this node that this process owns. It ends with this process, and waiting calls then fail. If only the
    actor dies, Ray restarts it without its conversations."""

    def __init__(self):
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(MemoryMailbox)
        self.actor = actor.options(
            num_cpus=0, max_concurrency=MOST_CALLS, max_restarts=-1, scheduling_strategy=here
        ).remote()

    async def open(self, conversation: str) -> None:
        await self.actor.open.remote(conversation)

    async def put(self, conversation: str, piece: Any) -> bool:
        return await self.actor.put.remote(conversation, piece)

    async def end(self, conversation: str) -> None:
        await self.actor.end.remote(conversation)

    async def take(self, conversation: str) -> list[Any] | None:
        try:
            return await self.actor.take.remote(conversation)
        except RayActorError:  # the actor died, perhaps with the router
            return None

    async def discard(self, conversation: str) -> None:
        self.actor.discard.remote(conversation)  # not awaited: the caller is leaving
