"""What tasks that change one picture answer with."""

from __future__ import annotations

from dataclasses import dataclass

from models.tasks.usage import NOTHING, Usage


@dataclass(frozen=True, slots=True)
class PictureResult:
    """One picture, changed. `data` is a file of the format asked for; width and height are pixels."""

    data: bytes
    width: int
    height: int
    usage: Usage = NOTHING
