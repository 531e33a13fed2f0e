"""Untrusted picture files to arrays."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps

from models.errors import InvalidMedia, ServingError
from models.media.headers import BROKEN, check_size, inspect_image

# A file of a few kilobytes can contain thousands of scans, each a pass over all pixels. Real encoders write about ten.
MOST_JPEG_SCANS = 100

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


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
        with Image.open(io.BytesIO(data), formats=[header.format.upper()]) as image:
            check_size(image.width, image.height, most_megapixels, param)  # in case the two readers disagree
            image.load()
            return _in_srgb(_upright(image))
    except ServingError:
        raise
    except Exception:  # decoders raise anything: OSError, SyntaxError, struct.error, OverflowError, …
        raise InvalidMedia(f"{param} {BROKEN}", param) from None


def _upright(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # the EXIF block may be broken; the pixels are still good
        return ImageOps.exif_transpose(image)
    return image


def _in_srgb(image: Image.Image) -> DecodedImage:
    """A picture in any mode that the three formats allow, converted to 8-bit sRGB."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255 instead of scaling
        image = _eight_bits(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.array(image.getchannel("A"))
        image = image.convert("RGB")
    elif image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    if profile:
        image = _from_profile(image, profile)
    return DecodedImage(np.array(image.convert("RGB")), alpha)


def _eight_bits(image: Image.Image) -> Image.Image:
    wide = np.array(image)
    grey = Image.fromarray((np.clip(wide, 0, 65535) >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    alpha = Image.fromarray(np.where(wide == transparent, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _from_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert colours with the file's profile. A broken profile, or one for another colour space, is ignored."""
    with suppress(Exception):
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
        if converted is not None:
            return converted
    return image
