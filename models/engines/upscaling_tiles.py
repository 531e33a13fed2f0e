"""Upscaling in tiles, shared by all upscaling engines, so that memory does not grow with the picture.

Each tile is processed with a margin as wide as the network's reach, so the result has no seams. At the edge of the
picture there is no margin, and the network pads as in training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from models.errors import OutOfMemory

SCALE = 4
SMALLEST_TILE = 32


class TiledUpscaling(ABC):
    """
    Args:
        trunk_tile: the side of tiles for the network's first part, in pixels of the picture.
        draw_tile: the same for its second part, which needs about 16 times the memory per pixel.
    """

    def __init__(self, trunk_tile: int = 320, draw_tile: int = 128):
        self.trunk_tile = trunk_tile
        self.draw_tile = draw_tile
        self._on_layer: Callable[[], None] = lambda: None

    @property
    @abstractmethod
    def reaches(self) -> tuple[int, int]:
        """The reach of the network's first and second part, in pixels of the picture."""

    @abstractmethod
    def trunk(self, pixels: np.ndarray) -> Any:
        """The input of the second part. pixels: uint8, (height, width, 3)."""

    @abstractmethod
    def draw(self, features: Any, rows: slice, columns: slice) -> np.ndarray:
        """A part of the features as pixels: uint8, SCALE times as high and as wide, 3 channels."""

    @abstractmethod
    def is_out_of_memory(self, error: Exception) -> bool: ...

    def free_memory(self) -> None:  # noqa: B027 - most engines have nothing to do
        """Free the memory that a failed tile left behind."""

    def upscale(self, image: np.ndarray, on_layer: Callable[[], None] = lambda: None) -> np.ndarray:
        self._on_layer = on_layer
        trunk_tile, draw_tile = self.trunk_tile, self.draw_tile
        while True:
            try:
                return self._in_tiles(image, trunk_tile, draw_tile)
            except Exception as error:
                if not self.is_out_of_memory(error):
                    raise
            # Outside the `except` block, so that the exception no longer references the failed tile's tensors.
            self.free_memory()
            trunk_tile, draw_tile = max(SMALLEST_TILE, trunk_tile // 2), draw_tile // 2
            if draw_tile < SMALLEST_TILE:
                raise OutOfMemory(
                    "There is not enough memory to upscale this picture now. Try again, or send a smaller one."
                )

    def _in_tiles(self, image: np.ndarray, trunk_tile: int, draw_tile: int) -> np.ndarray:
        height, width = image.shape[:2]
        result = np.empty((height * SCALE, width * SCALE, 3), np.uint8)
        # The second part sees beyond the edge of a trunk tile, so trunk tiles are larger by its reach.
        trunk_reach, near = self.reaches
        far = trunk_reach + near
        for rows, columns in tiles(Span(0, height, height), Span(0, width, width), trunk_tile, far):
            features = self.trunk(image[rows.seen, columns.seen])
            for lines, dots in tiles(rows, columns, draw_tile, near):
                large = self.draw(features, lines.seen_from(rows), dots.seen_from(columns))
                result[lines.enlarged, dots.enlarged] = large[lines.kept, dots.kept]
        return result


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a picture's rows or columns, of which there are `limit`, with the margins it is affected by."""

    start: int
    stop: int
    limit: int
    first_seen: int = 0
    last_seen: int = 0

    @property
    def seen(self) -> slice:
        return slice(self.first_seen, self.last_seen)

    def seen_from(self, other: Span) -> slice:
        """`seen`, relative to the start of what `other` sees."""
        return slice(self.first_seen - other.first_seen, self.last_seen - other.first_seen)

    @property
    def kept(self) -> slice:
        """The part of the enlarged `seen` that is not margin."""
        return slice((self.start - self.first_seen) * SCALE, (self.stop - self.first_seen) * SCALE)

    @property
    def enlarged(self) -> slice:
        return slice(self.start * SCALE, self.stop * SCALE)


def tiles(rows: Span, columns: Span, side: int, reach: int) -> Iterator[tuple[Span, Span]]:
    return product(spans(rows, side, reach), spans(columns, side, reach))


def spans(whole: Span, side: int, reach: int) -> Iterator[Span]:
    """Parts of nearly equal length, at most `side`, with margins of `reach` where the picture has them.

    A single part, if it is no longer than a middle part with its margins.
    """
    length = whole.stop - whole.start
    parts = 1 if length <= side + 2 * reach else -(-length // side)
    for part in range(parts):
        start, stop = (whole.start + length * end // parts for end in (part, part + 1))
        yield Span(start, stop, whole.limit, max(0, start - reach), min(whole.limit, stop + reach))
