"""File formats: their media types, and options for writing pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.errors import InvalidRequest

PictureFormat = Literal["png", "jpeg", "webp"]
SoundFormat = Literal["wav", "mp3", "flac", "opus"]
VideoFormat = Literal["mp4"]
Format = PictureFormat | SoundFormat | VideoFormat

MEDIA_TYPES: dict[Format, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",  # RFC 3003
    "flac": "audio/flac",  # RFC 9639
    "opus": "audio/ogg",  # RFC 7845: Opus in an Ogg file
    "mp4": "video/mp4",
}
"""The media type (`Content-Type`) of each format that models write. A format is also a file suffix."""


# Pixels of a side that a file of the format can have. A png can have more than anything here.
LONGEST_SIDE: dict[PictureFormat, int] = {"png": (1 << 31) - 1, "jpeg": 65_500, "webp": 16_383}


@dataclass(frozen=True, slots=True)
class Output:
    """How a picture is written.

    Attributes:
        compression: the quality of jpeg and lossy webp, 0 to 100. png is always lossless.
        background: `transparent` keeps or adds an alpha channel, which a jpeg cannot have.
    """

    format: PictureFormat = "png"
    compression: int = 100
    background: Literal["auto", "opaque", "transparent"] = "auto"

    def check(self, width: int, height: int) -> None:
        """Raises InvalidRequest if the format cannot hold a picture of this size."""
        longest = LONGEST_SIDE[self.format]
        if max(width, height) > longest:
            others = [kind for kind, side in LONGEST_SIDE.items() if side >= max(width, height)]
            raise InvalidRequest(
                f"output_format: a {self.format} has at most {longest} pixels a side, and this picture would have "
                f"{width}x{height}. Ask for {' or '.join(others) or 'a smaller size'}.",
                "output_format",
            )
