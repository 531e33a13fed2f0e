"""Shared by the endpoints for pictures: reading pictures, output options, and the answer with one changed picture."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from deployments.router.files import Delivery, File, WithFiles
from models.errors import InvalidRequest
from models.media.formats import Output
from models.media.headers import ImageHeader, inspect_image
from models.specs import ModelSpec
from models.tasks.pictures import PictureResult
from models.tasks.usage import IMAGES, PROMPT_TOKENS, Usage


def as_picture(value: Any) -> Any:
    """Bytes from a form's file, base64, a data URL, or OpenAI's `{"image_url": <data URL>}`. Nothing is fetched."""
    if isinstance(value, dict):
        if set(value) != {"image_url"}:
            raise ValueError('a picture is {"image_url": "data:image/png;base64,…"}; files by id are not kept here')
        value = value["image_url"]
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("send the picture as a file of a form, as base64 or as a data URL")
    start = value[:200].lower()
    if start.startswith(("http:", "https:")):
        raise ValueError("pictures are not fetched from the web; send the picture itself, as base64 or a data URL")
    if start.startswith("data:"):
        head, _, value = value.partition(",")
        if not head.lower().endswith(";base64"):
            raise ValueError("the data URL is not base64; write data:image/png;base64,…")
    try:
        # On bytes: of a text of 8 MiB, `split` makes millions of objects.
        return base64.b64decode(value.encode("ascii").translate(None, b" \t\r\n\f\v"), validate=True)
    except (binascii.Error, ValueError):  # UnicodeEncodeError is a ValueError
        raise ValueError("is neither base64 nor a data URL") from None


Picture = Annotated[
    bytes,
    BeforeValidator(as_picture),
    WithJsonSchema({"type": "string", "description": "A png, jpeg or webp: a file of a form, base64 or a data URL."}),
]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class PictureBody(Delivery):
    """The fields of every body that asks for pictures."""

    model: str | None = Field(default=None, min_length=1, max_length=256)
    """Left out, it is the first of its kind that is running."""
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(default=None, ge=0, le=100)
    """Quality of jpeg and webp; png is lossless."""
    background: Literal["auto", "opaque", "transparent"] | None = None
    user: str | None = Field(default=None, max_length=1000)
    safety_identifier: str | None = Field(default=None, max_length=1000)


def output(body: PictureBody) -> Output:
    """The options for writing pictures. Raises InvalidRequest if the format does not support them."""
    kind = body.output_format or "png"
    if body.output_compression not in (None, 100) and kind == "png":
        raise InvalidRequest(
            "output_compression: png is lossless. Ask for output_format jpeg or webp to have it smaller.",
            "output_compression",
        )
    if body.background == "transparent" and kind == "jpeg":
        raise InvalidRequest("background: jpeg has no transparency. Ask for output_format png or webp.", "background")
    compression = 100 if body.output_compression is None else body.output_compression
    return Output(kind, compression, body.background or "auto")


def inspected(picture: bytes, spec: ModelSpec, param: str) -> ImageHeader:
    """The header of a picture that the client sent. Raises InvalidMedia, PayloadTooLarge."""
    return inspect_image(picture, spec.limits.most_megapixels, param)


def inspected_and_writable(picture: bytes, spec: ModelSpec, written: Output, scale: int = 1) -> None:
    """Check the picture of parameter `image`, and that the result, `scale` times as large, can be written.

    Raises:
        InvalidMedia, PayloadTooLarge: about the picture.
        InvalidRequest: about the format.
    """
    header = inspected(picture, spec, "image")
    written.check(header.width * scale, header.height * scale)


def changed(result: PictureResult, body: PictureBody, spec: ModelSpec) -> WithFiles:
    """The answer of a task that changes one picture, in the form of OpenAI's images."""
    written = output(body)
    document = {
        "output_format": written.format,
        "size": f"{result.width}x{result.height}",
        "usage": usage(result.usage),
        "model": spec.id,
    }
    if written.background != "auto":
        document["background"] = written.background
    return WithFiles([File(result.data, written.format)], document)


def usage(used: Usage) -> dict[str, Any]:
    """Image models read tokens but write pictures: the tokens are the prompt's, and `images` counts the pictures."""
    read = used[PROMPT_TOKENS]
    return {
        "input_tokens": read,
        "input_tokens_details": {"text_tokens": read, "image_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 0},
        "total_tokens": read,
        "images": used[IMAGES],
    }
