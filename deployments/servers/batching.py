"""Dynamic batching of token lists, packed by length and fair between requests.

While the model works on one batch, what arrives waits; the next batch is filled from all of it. Two rules choose:

- Padding is waste, so a batch takes items of similar length: the first in the queue, and its neighbours in length.
- A request of a thousand inputs must not hold up one of a single input. So the queue is a fair queue: item k of a
  request counts as having arrived k turns after its first.
"""

import asyncio
from bisect import insort
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

Tokens = Sequence[int]
Embed = Callable[[Sequence[Tokens]], np.ndarray]


@dataclass(slots=True, eq=False)
class Pending:
    """A request whose rows are not all there yet."""

    rows: list[np.ndarray | None]
    missing: int
    done: asyncio.Future[np.ndarray]


@dataclass(slots=True, order=True)
class Item:
    """One token list of a request; items are ordered by their turn."""

    turn: int
    arrival: int
    position: int
    tokens: Tokens = field(compare=False)
    request: Pending = field(compare=False)


class LengthBatcher:
    """Runs `embed` on batches in a thread of its own.

    Args:
        embed: token lists to vectors, one row each; blocks.
        max_batch: items in a batch.
        max_tokens: tokens in a batch, padding included; a longer item goes alone.
        on_batch: is told the number of items of each batch.
    """

    def __init__(
        self, embed: Embed, max_batch: int = 64, max_tokens: int = 4096, on_batch: Callable[[int], None] | None = None
    ):
        self.embed = embed
        self.max_batch = max_batch
        self.max_tokens = max_tokens
        self.on_batch = on_batch
        self._queue: list[Item] = []
        self._turn = 0
        self._arrivals = 0
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed")

    async def submit(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """The vectors of these token lists, in order: shape (len(tokens), dimensions).

        Raises:
            Exception: what `embed` raised for a batch that held one of them.
        """
        request = Pending([None] * len(tokens), len(tokens), asyncio.get_running_loop().create_future())
        self._arrivals += 1
        for position, item in enumerate(tokens):
            insort(self._queue, Item(self._turn + position, self._arrivals, position, item, request))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        # When the caller gives up, this future is cancelled, and what is still queued of it is dropped.
        return await request.done

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._take_batch():
            if self.on_batch:
                self.on_batch(len(batch))
            try:
                vectors = await loop.run_in_executor(self._thread, self.embed, [item.tokens for item in batch])
            except Exception as error:
                for item in batch:
                    if not item.request.done.done():
                        item.request.done.set_exception(error)
            else:
                for item, row in zip(batch, vectors, strict=True):
                    self._keep(item, row)

    def _take_batch(self) -> list[Item]:
        """The next items to work on; empty when nothing waits."""
        self._queue = [item for item in self._queue if not item.request.done.done()]
        if not self._queue:
            return []
        first = self._queue[0]
        self._turn = first.turn
        length = len(first.tokens)
        batch, longest = [first], length
        others = self._queue[1 : 8 * self.max_batch]
        for item in sorted(others, key=lambda other: abs(len(other.tokens) - length)):
            if not length / 2 - 8 <= len(item.tokens) <= length * 2 + 8:
                break
            longest = max(longest, len(item.tokens))
            if len(batch) == self.max_batch or longest * (len(batch) + 1) > self.max_tokens:
                break
            batch.append(item)
        taken = set(map(id, batch))
        self._queue = [item for item in self._queue if id(item) not in taken]
        return batch

    def _keep(self, item: Item, row: np.ndarray) -> None:
        request = item.request
        request.rows[item.position] = row
        request.missing -= 1
        if not request.missing and not request.done.done():
            request.done.set_result(np.stack(request.rows))  # type: ignore[arg-type]
