"""How pictures are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True, slots=True)
class Output:
    """How a picture is written.

    Attributes:
        compression: quality of jpeg and lossy webp, 0 to 100; png is always lossless.
        background: transparent keeps or makes an alpha channel, which jpeg has not.
    """

    format: Format = "png"
    compression: int = 100
    background: Literal["auto", "opaque", "transparent"] = "auto"
