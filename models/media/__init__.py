"""Encoded media to arrays and back, with limits that hold before any work is done."""

from models.media.decoding import DecodedImage, decode_image
from models.media.encoding import EDITED, GENERATED, DigitalSource, encode_image
from models.media.headers import ImageHeader, inspect_image

__all__ = [
    "EDITED",
    "GENERATED",
    "DecodedImage",
    "DigitalSource",
    "ImageHeader",
    "decode_image",
    "encode_image",
    "inspect_image",
]
