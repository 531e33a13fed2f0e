"""`size`: which a model can make, and the nearest to one that it cannot."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from models.errors import InvalidRequest
from models.tasks.images import ImageSettings

_SIZE = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})")


def check_size(size: str | None, model: str, settings: ImageSettings) -> tuple[int | None, int | None]:
    """Width and height in pixels; None for both is the model's choice.

    Raises:
        InvalidRequest: not a size, or not one that this model makes.
    """
    if size in (None, "auto"):
        return None, None
    found = _SIZE.fullmatch(size)
    if not found:
        raise InvalidRequest(
            f"size is WIDTHxHEIGHT in pixels, such as {settings.width}x{settings.height}, or auto.", "size"
        )
    width, height = int(found[1]), int(found[2])
    fitting = nearest(width, height, settings)
    if (width, height) == fitting:
        return width, height
    raise InvalidRequest(
        f"size: {model} makes pictures of {settings.smallest} to {settings.largest} pixels a side, in multiples of "
        f"{settings.multiple}, of at most {settings.most_megapixels:g} megapixels, so not {width}x{height}. "
        f"The nearest is {fitting[0]}x{fitting[1]}.",
        "size",
    )


def nearest(width: int, height: int, settings: ImageSettings) -> tuple[int, int]:
    """The size itself if the model makes it, else one near to it and of about its shape."""
    most = settings.most_megapixels * 1e6
    scale = min(1.0, settings.largest / max(width, height))
    scale *= min(1.0, math.sqrt(most / (width * height)) / scale)
    sides = [_fitting(side * scale, settings, round) for side in (width, height)]
    if sides[0] * sides[1] > most:
        sides = [_fitting(side * scale, settings, math.floor) for side in (width, height)]
    while sides[0] * sides[1] > most and max(sides) - settings.multiple >= settings.smallest:
        sides[sides.index(max(sides))] -= settings.multiple
    return sides[0], sides[1]


def _fitting(side: float, settings: ImageSettings, rounded: Callable[[float], int]) -> int:
    step = settings.multiple
    smallest, largest = math.ceil(settings.smallest / step) * step, settings.largest // step * step
    return min(largest, max(smallest, rounded(side / step) * step))
