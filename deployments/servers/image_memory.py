"""How much memory a request for pictures takes, besides the engine's: known from the headers of those it sends."""

from __future__ import annotations

from dataclasses import dataclass

from models.media.headers import inspect_image
from models.media.memory import DECODED, WRITTEN, Size, decoding_bytes, encoding_bytes, resizing_bytes
from models.tasks.images import ImageRequest, ImageSettings

# Bytes for each pixel of arrays: colours, a mask, and a mask as the engine takes it.
COLOURS, MASK, REPAINT = 3, 1, 4

# A request may write several of its pictures at once where that takes no more than this part of all the room.
AT_ONCE = 1 / 8


@dataclass(frozen=True, slots=True)
class Needed:
    """
    Attributes:
        files: bytes of the files that came with the request.
        all: bytes at the worst moment, the files included.
        writing: how many finished pictures may be composed and encoded at once.
    """

    files: int
    all: int
    writing: int


def needed(request: ImageRequest, settings: ImageSettings, megapixels: float, limit: int) -> Needed:
    """
    Args:
        megapixels: the limit of a picture that is sent.
        limit: bytes that there are for all requests.

    Raises:
        InvalidMedia, PayloadTooLarge: by the header of a picture.
    """
    size, sent, working = _sizes(request, settings, megapixels)
    reading, kept = _read(request, sent, size, working, megapixels)
    made = request.n * (1 + request.partial_images)
    pixels = size[0] * size[1]
    finished = made * (COLOURS * working[0] * working[1] + WRITTEN * pixels)
    one = max(_resizing(working, size), DECODED * pixels + encoding_bytes(pixels, request.output))
    writing = request.n if request.n * one <= limit * AT_ONCE else 1
    files = sum(len(file) for file in (request.image, request.mask) if file is not None)
    files += sum(len(control.image) for control in request.controls)
    return Needed(files, files + max(reading, kept + finished + writing * one), writing)


def _sizes(request: ImageRequest, settings: ImageSettings, megapixels: float) -> tuple[Size, Size | None, Size]:
    """Of the finished pictures, of the picture that is sent, and of those that the engine makes."""
    sent = None
    if request.image is not None:
        header = inspect_image(request.image, megapixels, "image")
        sent = header.width, header.height
    size = sent or (settings.width, settings.height)
    if request.width and request.height:
        size = request.width, request.height
    return size, sent, settings.nearest(*size)


def _read(request: ImageRequest, sent: Size | None, size: Size, working: Size, megapixels: float) -> tuple[int, int]:
    """Bytes while the pictures are decoded, one after the other; and of the arrays that stay."""
    most, kept = 0, 0
    if sent is not None and request.image is not None:
        most = decoding_bytes(request.image, inspect_image(request.image, megapixels, "image"))
        held = (DECODED + MASK) * sent[0] * sent[1]
        if request.mask is not None:
            most = max(most, held + decoding_bytes(request.mask, inspect_image(request.mask, megapixels, "mask")))
        kept = (COLOURS + MASK) * size[0] * size[1] + (COLOURS + REPAINT) * working[0] * working[1]
        most = max(most, held + kept * (size != sent) + max(_resizing(sent, working), _resizing(sent, size)))
    for number, control in enumerate(request.controls):
        header = inspect_image(control.image, megapixels, f"controls[{number}].image")
        guide = header.width, header.height
        resizing = DECODED * guide[0] * guide[1] + _resizing(guide, working)
        most = max(most, kept + max(decoding_bytes(control.image, header), resizing))
        kept += COLOURS * working[0] * working[1]
    return most, kept


def _resizing(before: Size, after: Size) -> int:
    return 0 if before == after else resizing_bytes(before, after)
