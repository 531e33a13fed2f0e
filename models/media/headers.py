"""The format and size of a picture, from the first bytes of its file. Nothing is decoded and no memory allocated, so a
tiny file that claims gigapixels is cheap to refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.errors import InvalidMedia, PayloadTooLarge
from models.media.formats import PictureFormat

NOT_A_PICTURE = "is not a png, jpeg or webp file. Send a picture in one of these formats."
BROKEN = "is broken or cut off. Send it again as a whole png, jpeg or webp file."

# Markers that start a frame: baseline, extended, progressive and so on (ITU T.81, table B.1), except DHT, JPG and DAC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a segment.
JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})

# The most chunks, segments and padding before the pixels. Other requests wait while a header is read.
MOST_PARTS = 1000
# A png has more of them after its pixels begin; encoders write parts of some kilobytes. This many bytes at least are in
# each on average, because the decoder takes every part in turn.
PART_BYTES = 1024


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """
    Attributes:
        width, height: pixels as stored. EXIF orientation may rotate the picture when it is decoded.
        animated: the file has several frames.
    """

    format: PictureFormat
    width: int
    height: int
    animated: bool = False


def inspect_image(data: bytes, most_megapixels: float, param: str) -> ImageHeader:
    """Read a picture's header and check the limits.

    Raises:
        InvalidMedia: not a png, jpeg or webp; truncated in the header; without pixels; or animated.
        PayloadTooLarge: more than `most_megapixels` million pixels.
    """
    header = read_header(data, param)
    check_size(header.width, header.height, most_megapixels, param)
    if header.animated:
        raise InvalidMedia(f"{param} is animated. Send one still picture.", param)
    return header


def read_header(data: bytes, param: str) -> ImageHeader:
    for magic, read in _READERS:
        if data.startswith(magic):
            try:
                return read(data)
            except (IndexError, ValueError):
                raise InvalidMedia(f"{param} {BROKEN}", param) from None
    raise InvalidMedia(f"{param} {NOT_A_PICTURE}" if data else f"{param} is empty. Send a picture.", param)


def check_size(width: int, height: int, most_megapixels: float, param: str) -> None:
    if not width or not height:
        raise InvalidMedia(f"{param} has no pixels: its size is {width}x{height}.", param)
    if width * height > round(most_megapixels * 1e6):
        raise PayloadTooLarge(
            f"{param} has {width}x{height} = {width * height / 1e6:.4g} megapixels; at most {most_megapixels:g} are "
            "read here. Send a smaller picture.",
            param,
        )


def _png(data: bytes) -> ImageHeader:
    """https://www.w3.org/TR/png-3/: IHDR comes first. An acTL before IDAT marks an animation."""
    if _slice(data, 12, 4) != b"IHDR":
        raise ValueError
    width, height = int.from_bytes(_slice(data, 16, 4)), int.from_bytes(_slice(data, 20, 4))
    at, animated = 8, False
    for _ in range(MOST_PARTS):
        if (kind := _slice(data, at + 4, 4)) == b"IDAT":
            _check_parts(data, at)
            return ImageHeader("png", width, height, animated)
        animated = animated or kind == b"acTL"
        at += 12 + int.from_bytes(data[at : at + 4])
    raise ValueError


def _check_parts(data: bytes, at: int) -> None:
    """Raises ValueError if too many chunks follow."""
    for _ in range(MOST_PARTS + len(data) // PART_BYTES):
        if at >= len(data) or data[at + 4 : at + 8] == b"IEND":
            return
        at += 12 + int.from_bytes(data[at : at + 4])
    raise ValueError


def _jpeg(data: bytes) -> ImageHeader:
    """ITU T.81, annex B: segments up to the frame header."""
    at = 2
    for _ in range(MOST_PARTS):
        if data[at] != 0xFF:
            raise ValueError
        marker = data[at + 1]
        if marker == 0xFF:  # a marker may be padded
            at += 1
            continue
        at += 2
        if marker in JPEG_ALONE:
            continue
        if marker in _JPEG_FRAMES:
            height, width = int.from_bytes(_slice(data, at + 3, 2)), int.from_bytes(_slice(data, at + 5, 2))
            return ImageHeader("jpeg", width, height)
        if marker in (0xD9, 0xDA):  # the end or the pixels, before any frame
            raise ValueError
        at += max(2, int.from_bytes(_slice(data, at, 2)))
    raise ValueError


def _webp(data: bytes) -> ImageHeader:
    """RFC 9649: a lossy, a lossless or an extended file."""
    if _slice(data, 8, 4) != b"WEBP":
        raise ValueError
    kind = _slice(data, 12, 4)
    if kind == b"VP8X":
        animated = bool(data[20] & 0b10)
        width, height = (int.from_bytes(_slice(data, at, 3), "little") + 1 for at in (24, 27))
        return ImageHeader("webp", width, height, animated)
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(_slice(data, 21, 4), "little")
        return ImageHeader("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and _slice(data, 23, 3) == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(_slice(data, at, 2), "little") & 0x3FFF for at in (26, 28))
        return ImageHeader("webp", width, height)
    raise ValueError


def _slice(data: bytes, at: int, length: int) -> bytes:
    """Exactly this many bytes. Raises IndexError at the end of the file."""
    part = data[at : at + length]
    if len(part) != length:
        raise IndexError
    return part


_READERS: tuple[tuple[bytes, Callable[[bytes], ImageHeader]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8\xff", _jpeg),
    (b"RIFF", _webp),
)
