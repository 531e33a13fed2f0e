"""A stream of pictures as OpenAI's server-sent events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

import orjson

from deployments.router.files import as_base64
from deployments.router.pictures import usage
from deployments.router.routes.images.answers import common, making
from models.media.headers import read_header
from models.specs import ModelSpec
from models.tasks.images import EncodedImage, ImageEvent, ImageRequest, ImageResult, PartialImage, Progress
from models.tasks.usage import NOTHING

# A comment, which clients skip. It opens the stream at the first step and keeps it open. It also shows whether the
# client has left, because the write then fails.
WORKING = b": working\n\n"

Kind = Literal["image_generation", "image_edit"]


async def events(
    items: AsyncGenerator[ImageEvent, None], kind: Kind, asked: ImageRequest, spec: ModelSpec, progress: bool
) -> AsyncGenerator[bytes, None]:
    """The items of the model's stream as events, with a `completed` event as soon as each picture is finished.

    The usage is known only at the end of the request, so the `completed` event of the last picture has it. The others
    have zeros, so that clients can add them up.
    """
    shared = common(asked, spec)
    finished, last = 0, None
    async with aclosing(items):
        async for item in items:
            match item:
                case Progress(index=index, step=step, steps=steps):
                    told = {"index": index, "step": step, "steps": steps}
                    yield event(f"{kind}.progress", told) if progress else WORKING
                case PartialImage():
                    partial = {"partial_image_index": item.partial_index}
                    yield event(f"{kind}.partial_image", picture(item) | partial | shared)
                case EncodedImage():
                    finished += 1
                    document = picture(item) | {"seed": item.seed} | shared
                    if finished < asked.n:
                        yield event(f"{kind}.completed", document | {"usage": usage(NOTHING)})
                    else:
                        last = document  # held back until the result brings the usage
                case ImageResult():
                    if last is not None:
                        yield event(
                            f"{kind}.completed", last | {"usage": usage(item.usage)} | making(item, asked, spec)
                        )


def picture(item: EncodedImage | PartialImage) -> dict[str, Any]:
    """A picture in an event, finished or not."""
    header = read_header(item.data, "image")
    return {"b64_json": as_base64(item.data), "index": item.index, "size": f"{header.width}x{header.height}"}


def event(kind: str, document: dict[str, Any]) -> bytes:
    body = orjson.dumps({"type": kind, "created_at": int(time.time()), **document})
    return b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"
