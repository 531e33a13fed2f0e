"""A mailbox as an actor: replicas on every node can take out of it."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.mailbox import MemoryMailbox

# Conversations wait in it, each in one call of the router and one of its replica.
MOST_CALLS = 10_000


class RayMailbox:
    """Beside this process and owned by it: it ends when this process does, and those who wait in it are told. Should
    it die alone, Ray starts it anew, without the conversations that were in it."""

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
        except RayActorError:  # it died, perhaps with the router
            return None

    async def discard(self, conversation: str) -> None:
        self.actor.discard.remote(conversation)  # nobody waits for it: the one who leaves has no time
