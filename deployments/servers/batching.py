"""Dynamic batching, packed by cost and fair between requests.

While the model works on one batch, new items wait, and the next batch is filled from all of them by three rules:

- Padding is waste, so a batch has items of similar cost: the first in the queue, and those nearest to it in cost.
- A request of a thousand items must not hold up one of a single item. So the queue is fair: item k of a request counts
  as if it had arrived k turns after the request's first.
- Items of batch jobs come after all others. But one batch in sixteen begins with such an item, so they never starve.
"""

import asyncio
import time
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from deployments.servers.admission import Job
from deployments.servers.threads import engine_thread, run_in

I = TypeVar("I")  # noqa: E741  an item
R = TypeVar("R")
"""The result of an item."""

# Costs are similar if they differ by a factor of two at most, and this much on top, which matters for small ones.
NEAR = 8
# One batch in this many begins with an item of a batch job.
PATIENT_EVERY = 16


@dataclass(slots=True, eq=False)
class Pending(Generic[R]):
    """A request with results still missing.

    Attributes:
        queued: items that no batch has taken yet.
    """

    results: list[R | None]
    missing: int
    done: asyncio.Future[list[R]]
    queued: int = 0


@dataclass(slots=True, order=True)
class Item(Generic[I, R]):
    """One item of a request, in the order of the queue.

    Attributes:
        patient: from a batch job, so it comes after others.
    """

    patient: bool
    turn: int
    arrival: int
    position: int
    cost: float = field(compare=False)
    value: I = field(compare=False)
    request: Pending[R] = field(compare=False)


def one(item: object) -> float:
    return 1


class Batcher(Generic[I, R]):
    """Runs a function on batches, in a thread of its own.

    Args:
        run: items to results, one each; blocks.
        cost: the relative amount of work of an item, such as its length.
        largest_batch: the most items in a batch.
        largest_cost: the limit for a batch with padding: its highest cost times its number of items. An item above it
            gets a batch of its own.
        on_batch: is called before each batch with its number of items.
        did: is called after each batch with its seconds and the sum of its costs.
    """

    def __init__(  # noqa: PLR0917
        self,
        run: Callable[[Sequence[I]], Iterable[R]],
        cost: Callable[[I], float] = one,
        largest_batch: int = 64,
        largest_cost: float = float("inf"),
        on_batch: Callable[[int], None] | None = None,
        did: Callable[[float, float], None] | None = None,
    ):
        self.run = run
        self.cost = cost
        self.largest_batch = largest_batch
        self.largest_cost = largest_cost
        self.on_batch = on_batch
        self.did = did
        self._queue: list[Item[I, R]] = []
        self._turns = {False: 0, True: 0}  # the turn at the front of the queue, for interactive and for patient items
        self._batches = 0
        self._arrivals = 0
        self._worker: asyncio.Task[None] | None = None
        self._thread = engine_thread("batches")

    async def submit(self, items: Sequence[I], patient: bool = False, job: Job | None = None) -> list[R]:
        """The results of these items, in order.

        Args:
            patient: they are from a batch job.
            job: the request, to which it is told how many of its items are left.

        Raises:
            Exception: raised by `cost` for one of them, or by `run` for a batch with one of them.
            ValueError: `run` returned more or fewer results than a batch had items.
        """
        if not items:
            return []
        costs = [self.cost(item) for item in items]  # if one of them raises, nothing is in the queue yet
        request: Pending[R] = Pending([None] * len(items), len(items), asyncio.get_running_loop().create_future())
        if job is not None:
            job.left = lambda: (request.queued, request.missing - request.queued)
        self.put(items, costs, request, patient)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        # If the caller gives up, this future is cancelled and the items that are still queued are dropped.
        return await request.done

    def put(self, items: Sequence[I], costs: Sequence[float], request: Pending[R], patient: bool) -> None:
        """Queue a request's items."""
        self._arrivals += 1
        request.queued = len(items)
        for position, (item, cost) in enumerate(zip(items, costs, strict=True)):
            turn = self._turns[patient] + position
            insort(self._queue, Item(patient, turn, self._arrivals, position, cost, item, request))

    async def _work(self) -> None:
        while batch := self.take_batch():
            # Any error must reach those who wait for this batch, and must not end this loop: they would wait forever.
            try:
                if self.on_batch:
                    self.on_batch(len(batch))
                began = time.perf_counter()
                results = await run_in(self._thread, self._results, [item.value for item in batch])
                if self.did:
                    self.did(time.perf_counter() - began, sum(item.cost for item in batch))
            except Exception as error:
                for item in batch:
                    if not item.request.done.done():
                        item.request.done.set_exception(error)
            else:
                for item, result in zip(batch, results, strict=True):
                    self._keep(item, result)

    def _results(self, items: list[I]) -> list[R]:
        """In the thread: the results of a batch, one each."""
        results = list(self.run(items))
        if len(results) != len(items):
            raise ValueError(f"a batch of {len(items)} items has {len(results)} results")
        return results

    def take_batch(self) -> list[Item[I, R]]:
        """The next items to work on; empty if none wait."""
        self._queue = [item for item in self._queue if not item.request.done.done()]
        if not self._queue:
            return []
        first = self._first()
        self._turns[first.patient] = first.turn
        batch, highest = [first], first.cost
        others = [item for item in self._queue[: 8 * self.largest_batch] if item is not first]
        for item in sorted(others, key=lambda other: (other.patient, abs(other.cost - first.cost))):
            if not first.cost / 2 - NEAR <= item.cost <= first.cost * 2 + NEAR:
                break
            highest = max(highest, item.cost)
            if len(batch) == self.largest_batch or highest * (len(batch) + 1) > self.largest_cost:
                break
            batch.append(item)
        for item in batch:
            item.request.queued -= 1
        taken = set(map(id, batch))
        self._queue = [item for item in self._queue if id(item) not in taken]
        return batch

    def _first(self) -> Item[I, R]:
        """The item that the next batch begins with."""
        self._batches += 1
        if self._batches % PATIENT_EVERY == 0:
            return next((item for item in self._queue if item.patient), self._queue[0])
        return self._queue[0]

    def _keep(self, item: Item[I, R], result: R) -> None:
        request = item.request
        request.results[item.position] = result
        request.missing -= 1
        if not request.missing and not request.done.done():
            request.done.set_result(request.results)  # pyright: ignore[reportArgumentType]
