"""Notices between the routers of a cluster, through an actor that all of them find by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.notices import MemoryNotices

NAME, NAMESPACE = "notices", "medley"
# Each router has two calls in the actor at most.
MOST_CALLS = 1000


class RayNotices:
    """The first router that needs the actor makes it on its own node, and owns it. When that router ends, the actor
    does, and the next router that needs one makes another.

    Raises:
        RayError: from `give` and `take`, once, when it has.
    """

    def __init__(self):
        self._actor: Any = None
        self._finding = asyncio.Lock()

    async def give(self, router: str, notices: Sequence[Any]) -> None:
        await self._call("give", router, notices)

    async def take(self, router: str) -> list[Any]:
        return await self._call("take", router)

    def leave(self) -> None:
        self._actor = None  # the actor ends with the last handle of the process that made it

    async def _call(self, method: str, *args: Any) -> Any:
        async with self._finding:  # a second handle of ours would take the place of the one that owns the actor
            if self._actor is None:
                self._actor = await asyncio.to_thread(find_or_make)  # asks Ray's control plane, which may hang
            actor = self._actor
        try:
            return await getattr(actor, method).remote(*args)
        except RayError:
            if self._actor is actor:
                self._actor = None
            raise


def find_or_make() -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(MemoryNotices)
    return remote.options(
        name=NAME,
        namespace=NAMESPACE,
        get_if_exists=True,
        num_cpus=0,
        max_concurrency=MOST_CALLS,
        scheduling_strategy=here,
    ).remote()
