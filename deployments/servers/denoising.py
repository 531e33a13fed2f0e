"""The loop that denoises pictures of many requests together.

Each turn is one denoising step of one batch, in a separate thread. Between turns, new pictures join, finished ones
leave, and cancelled ones are dropped. So no picture waits for another one's last step, and a cancelled one costs at
most its current step. Pictures that cannot share a batch, because of different sizes or adapters, take turns.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deployments.servers.threads import engine_thread, run_in
from models.errors import OutOfMemory, ServingError
from models.tasks.images import Denoising, ImageEngine, Picture

logger = logging.getLogger("ray.serve")

# The most batches that take turns. With more, every picture would wait for many others.
MOST_GROUPS = 4

OnStep = Callable[[Denoising], None]
OnPreview = Callable[[np.ndarray], None]


def nothing(*_: Any) -> None:
    pass


@dataclass(slots=True, eq=False)
class Job:
    """A picture to make, and the callbacks of its caller.

    Attributes:
        shown: how many previews to make, evenly spread over the steps.
        on_step, on_preview: called in the event loop.
        done: the finished pixels.
    """

    picture: Picture
    done: asyncio.Future[np.ndarray]
    shown: int = 0
    on_step: OnStep = nothing
    on_preview: OnPreview = nothing
    preview_at: frozenset[int] = frozenset()
    denoising: Denoising | None = None
    previews: list[np.ndarray] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        return not self.done.done()

    @property
    def finished(self) -> bool:
        return self.denoising is not None and self.denoising.step >= self.denoising.steps

    def fail(self, error: BaseException) -> None:
        if self.wanted:
            self.done.set_exception(error)


class DenoisingLoop:
    """
    Args:
        largest_batch: the most pictures in one step; the engine's limit for their size applies too.
        on_batch: is called with the number of pictures of each step.
        did: is called after work of the engine with its seconds, its steps, the pixels of pictures that made one, and
            the pixels of those that began or ended.
        thread: the engine's thread, if it must be the one that loaded it.
    """

    def __init__(
        self,
        engine: ImageEngine,
        largest_batch: int = 16,
        on_batch: Callable[[int], None] = nothing,
        did: Callable[[float, int, int, int], None] = nothing,
        thread: ThreadPoolExecutor | None = None,
    ):
        self.engine = engine
        self.largest_batch = largest_batch
        self.on_batch = on_batch
        self.did = did
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._turns: deque[Any] = deque()  # batch keys in the order of their turns
        self._fits: dict[tuple[int, int], int] = {}  # size -> pictures that fit, for sizes that ran out of memory
        self._thread = thread or engine_thread("denoising")
        self._runner: asyncio.Task[None] | None = None

    async def make(
        self,
        picture: Picture,
        shown: int = 0,
        on_step: OnStep = nothing,
        on_preview: OnPreview = nothing,
    ) -> np.ndarray:
        """Make one picture. When this is cancelled, its place is free after the current step.

        Raises:
            ServingError: raised by the engine; OutOfMemory if not even one such picture fits.
        """
        job = Job(picture, asyncio.get_running_loop().create_future(), shown, on_step, on_preview)
        self._waiting.append(job)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        try:
            return await job.done
        finally:
            job.done.cancel()  # no effect if it is done

    async def _run(self) -> None:
        """Take turns until there is no work left."""
        try:
            while self._waiting or self._active:
                self._drop_the_unwanted()
                await self._admit()
                if batch := self._next_batch():
                    await self._step(batch)
        except Exception as error:  # otherwise callers would wait forever
            logger.error("the loop of pictures ended: %s", type(error).__name__)
            for job in [*self._waiting, *self._active]:
                job.fail(error)
            self._drop_the_unwanted()

    def _drop_the_unwanted(self) -> None:
        self._waiting = deque(job for job in self._waiting if job.wanted)
        self._active = [job for job in self._active if job.wanted]

    async def _admit(self) -> None:
        """Start waiting pictures in order of arrival, while their batches have room."""
        while self._waiting:
            job = self._waiting[0]
            if job.denoising is None:
                await self._guarded([job], self._start, job, did=(0, 0, job.picture.pixels))
            if job.wanted and job.denoising is not None:
                key = job.denoising.batch_key
                if not self._has_room(key, job.picture):
                    return
                self._active.append(job)
                if key not in self._turns:
                    self._turns.append(key)
            self._waiting.popleft()

    def _start(self, job: Job) -> None:
        job.denoising = self.engine.start(job.picture)
        # The number of steps is known only now: some schedulers take more than requested, and edits take fewer.
        job.preview_at = preview_steps(job.denoising.steps, job.shown)

    def _has_room(self, key: Any, picture: Picture) -> bool:
        sharing = sum(1 for job in self._active if job.denoising is not None and job.denoising.batch_key == key)
        if not sharing:
            return len({job.denoising.batch_key for job in self._active if job.denoising}) < MOST_GROUPS
        return sharing < self._limit(picture)

    def _limit(self, picture: Picture) -> int:
        size = picture.width, picture.height
        return max(1, min(self.largest_batch, self.engine.largest_batch(*size), self._fits.get(size, 1 << 30)))

    def _next_batch(self) -> list[Job]:
        """The pictures of the next batch. A batch without pictures loses its turn."""
        while self._turns:
            key = self._turns.popleft()
            batch = [job for job in self._active if job.denoising is not None and job.denoising.batch_key == key]
            if batch:
                self._turns.append(key)
                # After memory ran out, the batch may be larger than what fits. Its oldest pictures go first.
                return batch[: self._limit(batch[0].picture)]
        return []

    async def _step(self, batch: Sequence[Job]) -> None:
        self.on_batch(len(batch))
        pixels: dict[int, np.ndarray] = {}
        stepping = [job for job in batch if not job.finished]
        ending = [job for job in batch if job.denoising and job.denoising.step + 1 >= job.denoising.steps]
        did = (min(1, len(stepping)), pixels_of(stepping), pixels_of(ending))
        if not await self._guarded(batch, self._turn, batch, pixels, did=did):
            return
        for number, job in enumerate(batch):
            assert job.denoising is not None
            if not job.wanted:
                continue
            job.on_step(job.denoising)
            for preview in job.previews:
                job.on_preview(preview)
            job.previews.clear()
            if number in pixels:
                job.done.set_result(pixels[number])
        self._active = [job for job in self._active if job.wanted]

    def _turn(self, batch: Sequence[Job], pixels: dict[int, np.ndarray]) -> None:
        """In the thread: one step, the previews that are due after it, and the pixels of finished pictures."""
        engine = self.engine
        stepping = [job.denoising for job in batch if job.denoising is not None and not job.finished]
        if stepping:
            engine.step(stepping)
        for job in batch:
            assert job.denoising is not None
            if job.denoising.step in job.preview_at and not job.finished and job.wanted:
                job.previews.append(engine.preview(job.denoising))
        finished = {number: job.denoising for number, job in enumerate(batch) if job.finished and job.denoising}
        if finished:
            pixels.update(zip(finished, engine.finish(list(finished.values())), strict=True))

    async def _guarded(
        self, batch: Sequence[Job], work: Callable[..., None], *args: Any, did: tuple[int, int, int]
    ) -> bool:
        """Run a batch's work in the thread. Returns whether it succeeded. If not, the batch has shrunk or failed."""
        began = time.perf_counter()
        try:
            await run_in(self._thread, work, *args)
            self.did(time.perf_counter() - began, *did)
            return True
        except OutOfMemory as error:
            self._shrink(batch, error)
        except Exception as error:  # only this batch fails; the loop goes on with the others
            for job in batch:
                job.fail(error)
            if not isinstance(error, ServingError):
                logger.error("a batch of %d pictures failed: %s", len(batch), type(error).__name__)
        return False

    def _shrink(self, batch: Sequence[Job], error: OutOfMemory) -> None:
        picture = batch[0].picture
        if len(batch) == 1:
            batch[0].fail(error)
            return
        self._fits[picture.width, picture.height] = half = len(batch) // 2
        logger.warning(
            "out of memory with %d pictures of %dx%d; from now on at most %d at once",
            len(batch),
            picture.width,
            picture.height,
            half,
        )


def pixels_of(jobs: Sequence[Job]) -> int:
    return sum(job.picture.pixels for job in jobs)


def preview_steps(steps: int, count: int) -> frozenset[int]:
    """The steps after which to make a preview, evenly spread."""
    return frozenset(max(1, steps * (number + 1) // (count + 1)) for number in range(count))
