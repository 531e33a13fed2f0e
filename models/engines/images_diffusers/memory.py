"""GPU memory: how much a batch needs, from measurements, and how to free it when it runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from typing import ParamSpec, TypeVar

import torch

from models.errors import OutOfMemory

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Measured:
    """The peak memory of a batch, without the weights.

    Attributes:
        pixels: of one picture. batch: the number of pictures, with guidance.
        step: bytes of a denoising step. decode: bytes of decoding the batch.
    """

    pixels: int
    batch: int
    step: int
    decode: int

    @property
    def each(self) -> float:
        """Bytes per picture."""
        return max(self.step, self.decode) / self.batch


class MemoryTable:
    """Measured points of one model in one precision on one kind of device, and estimates from them."""

    def __init__(self, points: Iterable[Measured] = ()):
        self.points = tuple(sorted(points, key=lambda point: (point.pixels, point.batch)))

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> MemoryTable:
        """From the catalog's rows of (pixels, batch, step, decode)."""
        return cls(Measured(*row) for row in rows)

    def bytes_each(self, pixels: int) -> float | None:
        """Bytes per picture in a batch. Linear between two measured sizes. Above the largest, proportional to the
        square of the pixels, like attention without a fused kernel. None without points."""
        if not self.points:
            return None
        worst: dict[int, float] = {}
        for point in self.points:
            worst[point.pixels] = max(point.each, worst.get(point.pixels, 0))
        sizes = sorted(worst)
        if pixels <= sizes[0]:
            return worst[sizes[0]]
        for small, large in pairwise(sizes):
            if pixels <= large:
                share = (pixels - small) / (large - small)
                return worst[small] + share * (worst[large] - worst[small])
        return worst[sizes[-1]] * (pixels / sizes[-1]) ** 2

    def largest_batch(self, pixels: int, free_bytes: int) -> int | None:
        """How many pictures fit, perhaps 0. None where nothing was measured."""
        each = self.bytes_each(pixels)
        return None if each is None else int(free_bytes // each)


def free_bytes() -> int | None:
    """GPU memory for a batch: free memory, and memory that torch holds unused. None without a GPU."""
    if not torch.cuda.is_available():
        return None
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def peak_bytes(work: Callable[[], object]) -> int | None:
    """The peak memory of some work, beyond what was allocated before it. None without a GPU."""
    if not torch.cuda.is_available():
        return None
    release()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def out_of_memory_is_an_answer(method: Callable[P, R]) -> Callable[P, R]:
    """Turn torch's out-of-memory error into Medley's, and free the memory.

    Raises:
        OutOfMemory
    """

    @wraps(method)
    def answering(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except torch.OutOfMemoryError:
            pass  # until here the traceback keeps frames alive, and with them the tensors, so nothing could be freed
        release()
        raise OutOfMemory(
            "There is not enough GPU memory for this picture now. Ask for a smaller size or fewer images, or try again."
        )

    return answering


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
