"""The result of tasks that change one picture."""

from __future__ import annotations

from dataclasses import dataclass

from models.tasks.usage import NOTHING, Usage


@dataclass(frozen=True, slots=True)
class PictureResult:
    """One changed picture. `data` is a file in the requested format; width and height are in pixels."""

    data: bytes
    width: int
    height: int
    usage: Usage = NOTHING
