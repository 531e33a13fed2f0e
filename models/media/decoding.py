"""Untrusted picture files to arrays."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from models.errors import InvalidMedia
from models.media.headers import BROKEN, ImageHeader, inspect_image
from models.media.metadata import orientation_of, without_metadata

# A file of a few kilobytes can contain thousands of scans, each a pass over all pixels. Real encoders write about ten.
# A hundred of 16 megapixels take a second.
MOST_JPEG_SCANS = 100

# Pixels that are converted at a time, so that no second copy of the whole picture is made on the way.
PIECE = 1 << 20

# Pillow keeps a png's texts, unpacked. None of them is needed here.
PngImagePlugin.MAX_TEXT_MEMORY = 2 << 20

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

# By EXIF orientation: views of an array (height, width, ...) that stand upright.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, -1),
    7: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """
    Attributes:
        pixels: uint8, shape (height, width, 3), sRGB, upright: EXIF orientation is applied.
        alpha: uint8, shape (height, width), 0 is transparent; None for a picture without an alpha channel.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None


def decode_image(data: bytes, most_megapixels: float, param: str) -> DecodedImage:
    """The pixels of a png, jpeg or webp file in any colour mode.

    Raises:
        InvalidMedia: not a picture, or a broken, truncated or animated one.
        PayloadTooLarge: by its header, more than `most_megapixels` million pixels.
    """
    header = inspect_image(data, most_megapixels, param)
    if header.format == "jpeg" and data.count(b"\xff\xda") > MOST_JPEG_SCANS:
        raise InvalidMedia(f"{param} has too many scans. Save it again as a usual jpeg file.", param)
    try:
        return _upright(*_as_stored(data, header))
    except Exception:  # decoders raise anything: OSError, SyntaxError, struct.error, OverflowError, …
        raise InvalidMedia(f"{param} {BROKEN}", param) from None


def _as_stored(data: bytes, header: ImageHeader) -> tuple[DecodedImage, int]:
    """The picture as it lies in the file, and its EXIF orientation."""
    plain, exif = without_metadata(data, header.format)
    with Image.open(io.BytesIO(plain), formats=[header.format.upper()]) as image:
        if image.size != (header.width, header.height):
            raise ValueError("the size is another one than that for which room was made")
        image.load()
        return _in_srgb(image), orientation_of(exif or image.info.get("exif", b""))


def _in_srgb(image: Image.Image) -> DecodedImage:
    """A picture in any mode that the three formats allow, converted to 8-bit sRGB."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    alpha = np.empty(pixels.shape[:2], np.uint8) if image.has_transparency_data else None
    profile = _Profile(image.info.get("icc_profile"))
    for left, top, right, bottom in _pieces(*image.size):
        piece = image.crop((left, top, right, bottom))
        if piece.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255 instead of scaling
            piece = _eight_bits(piece)
        if alpha is not None:
            piece = piece.convert("RGBA")
            alpha[top:bottom, left:right] = np.asarray(piece.getchannel("A"))
            piece = piece.convert("RGB")
        elif piece.mode not in ("L", "CMYK"):
            piece = piece.convert("RGB")
        pixels[top:bottom, left:right] = np.asarray(profile.applied(piece).convert("RGB"))
    return DecodedImage(pixels, alpha)


def _pieces(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of at most PIECE pixels that cover a picture."""
    columns = min(width, PIECE)
    rows = max(1, PIECE // columns)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield left, top, min(width, left + columns), min(height, top + rows)


def _upright(image: DecodedImage, orientation: int) -> DecodedImage:
    turn = _TURNS.get(orientation)
    if turn is None:
        return image
    alpha = None if image.alpha is None else np.ascontiguousarray(turn(image.alpha))
    return DecodedImage(np.ascontiguousarray(turn(image.pixels)), alpha)


def _eight_bits(image: Image.Image) -> Image.Image:
    wide = np.array(image)
    grey = Image.fromarray((np.clip(wide, 0, 65535) >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    alpha = Image.fromarray(np.where(wide == transparent, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


class _Profile:
    """The colour profile of a file. A broken one, or one for another colour space, is ignored."""

    def __init__(self, profile: bytes | None):
        # Of `mpet` elements a profile may name one a hundred thousand times, and each costs time for every colour.
        self._profile = None if profile and b"mpet" in profile else profile
        self._transform: ImageCms.ImageCmsTransform | None = None

    def applied(self, image: Image.Image) -> Image.Image:
        """A piece of the picture in sRGB; pieces of one picture all have one mode."""
        if self._profile is None:
            return image
        with suppress(Exception):
            if self._transform is None:
                source = ImageCms.ImageCmsProfile(io.BytesIO(self._profile))
                self._transform = ImageCms.buildTransform(source, _SRGB, image.mode, "RGB")
            if (converted := ImageCms.applyTransform(image, self._transform)) is not None:
                return converted
        self._profile = None
        return image
