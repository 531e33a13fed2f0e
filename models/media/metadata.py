"""What picture files say beside their pixels.

Pillow reads all of it when it opens a jpeg, and trusts it: each of the thousands of entries of an EXIF block of 64 KB
may name the whole block as its value, and Pillow copies it for each. Here only the orientation is read.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from models.media.formats import PictureFormat
from models.media.headers import JPEG_ALONE, MOST_PARTS

EXIF = b"Exif\0\0"
_ORIENTATION, _SHORT = 0x0112, 3

# Application segments of a jpeg that say how its colours are to be read: JFIF, a colour profile, Adobe's transform.
_NEEDED = {0xE0: b"", 0xE2: b"ICC_PROFILE\0", 0xEE: b""}
_METADATA = frozenset({*range(0xE0, 0xF0), 0xFE})
_SCAN = 0xDA


def without_metadata(data: bytes, kind: PictureFormat) -> tuple[bytes, bytes]:
    """The file without what Pillow would read in it beside the pixels, and its EXIF block.

    Only a jpeg changes: the EXIF block of a png or webp is kept by Pillow and not read.

    Raises:
        ValueError, IndexError: a jpeg whose pixels never begin.
    """
    if kind != "jpeg":
        return data, b""
    kept, exif, at = [data[:2]], b"", 2
    for _ in range(MOST_PARTS):
        if data[at : at + 1] != b"\xff" or data[at + 1] == _SCAN:
            return b"".join([*kept, data[at:]]), exif
        marker = data[at + 1]
        if marker == 0xFF or marker in JPEG_ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
        segment = data[at + 4 : end]
        if marker == 0xE1 and segment.startswith(EXIF):
            exif = exif or segment
        needed = segment.startswith(_NEEDED[marker]) if marker in _NEEDED else marker not in _METADATA
        if needed:
            kept.append(data[at:end])
        at = end
    raise ValueError


def orientation_of(exif: bytes) -> int:
    """EXIF's orientation, 1 to 8. 1, upright, if the block is broken or does not say it."""
    with suppress(ValueError, KeyError):
        block = exif.removeprefix(EXIF)
        orders: dict[bytes, Literal["little", "big"]] = {b"II": "little", b"MM": "big"}
        order = orders[block[:2]]
        at = int.from_bytes(block[4:8], order)
        for entry in range(int.from_bytes(block[at : at + 2], order)):
            here = block[at + 2 + 12 * entry : at + 14 + 12 * entry]
            if len(here) < 12:
                break
            tag, kind = int.from_bytes(here[:2], order), int.from_bytes(here[2:4], order)
            if (tag, kind) == (_ORIENTATION, _SHORT):
                return int.from_bytes(here[8:10], order)
    return 1
