"""Pictures to send, and pictures that came."""

from __future__ import annotations

import base64
import io
import random
from typing import Any

from PIL import Image, ImageDraw


def drawn(draw: random.Random, side: int) -> bytes:
    """A PNG of a few shapes on a plain ground, (side, side)."""
    picture = Image.new("RGB", (side, side), colour(draw))
    pen = ImageDraw.Draw(picture)
    for _ in range(4):
        (left, right), (top, bottom) = (sorted(draw.sample(range(side), 2)) for _ in range(2))
        draw.choice((pen.ellipse, pen.rectangle))((left, top, right, bottom), fill=colour(draw))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def colour(draw: random.Random) -> tuple[int, int, int]:
    return draw.randrange(256), draw.randrange(256), draw.randrange(256)


def wrong_with(documents: list[dict[str, Any]], count: int, width: int, height: int) -> str:
    """What is wrong with an answer that should be `count` pictures of one size which show something, or ""."""
    pictures = documents[0].get("data", [])
    if len(pictures) != count:
        return f"{len(pictures)} pictures came, {count} were asked for"
    for one in pictures:
        with Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))) as picture:
            if picture.size != (width, height):
                return f"a picture of {picture.size}, asked was {(width, height)}"
            if all(low == high for low, high in picture.convert("RGB").getextrema()):  # type: ignore[misc]
                return "a picture of one colour"
    return ""
