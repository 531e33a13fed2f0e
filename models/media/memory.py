"""How much memory the work on a picture takes, in bytes: known from its header and from what is asked for, before any
of it is done. The figures per pixel are the most that was measured, and a little more."""

from __future__ import annotations

from models.media.formats import Output
from models.media.headers import ImageHeader

Size = tuple[int, int]

# The arrays of a decoded picture: colours and transparency.
DECODED = 4
# While a file is decoded: the decoder's own copies and the arrays that come out.
DECODING = {"png": 10, "jpeg": 13, "webp": 18}
# For each file whatever its size: tables, a colour profile, texts.
FILE = 4 << 20
# While a file is written: Pillow's copy and the encoder's own. webp keeps the whole picture in many forms.
ENCODING = {"png": 5, "jpeg": 6, "webp": 36}
# A finished file of noise, which cannot be made smaller.
WRITTEN = 4


def decoding_bytes(data: bytes, header: ImageHeader) -> int:
    """Of `decode_image`, its result included."""
    return FILE + len(data) + header.width * header.height * DECODING[header.format]


def encoding_bytes(pixels: int, output: Output) -> int:
    """Of `encode_image` for so many pixels, without the arrays that it is given and the file."""
    return pixels * ENCODING[output.format]


def resizing_bytes(before: Size, after: Size) -> int:
    """Of a picture's resizing. Pillow resizes one side first: a thin picture may become very large on the way."""
    between = max(after) * max(before)
    return 4 * (before[0] * before[1] + between) + 10 * after[0] * after[1]
