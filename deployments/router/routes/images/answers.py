"""Finished pictures as OpenAI's images response, and beside it what is needed to make them again."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import Request, Response

from deployments.router.media_store import link
from deployments.router.routes.images.bodies import Delivery
from deployments.router.services import Services
from models.errors import InvalidRequest
from models.media.formats import Output
from models.specs import ModelSpec
from models.tasks.images import TASK, ImageRequest, ImageResult
from models.tasks.pictures import PictureResult
from models.tasks.usage import IMAGES, PROMPT_TOKENS, Usage


def can_be_delivered(request: Request, body: Delivery, stream: bool = False) -> None:
    """Raises InvalidRequest: links are asked for and there are none, before any work is done."""
    services: Services = request.app.state.services
    if body.response_format != "url":
        return
    if stream:
        raise InvalidRequest("A stream has pictures as b64_json. Leave out response_format.", "response_format")
    if services.media is None:
        raise InvalidRequest("This cluster has no links to pictures. Ask for b64_json.", "response_format")


async def made(request: Request, body: Delivery, spec: ModelSpec, asked: ImageRequest, result: ImageResult) -> Response:
    """The answer of generations, edits and variations."""
    delivered = await delivery(request, body, [image.data for image in result.images], asked.output)
    for item, image in zip(delivered, result.images, strict=True):
        item["seed"] = image.seed
    return response(
        {
            "created": int(time.time()),
            "background": background(asked.output),
            "data": delivered,
            "output_format": result.format,
            "quality": quality(asked, spec),
            "size": f"{result.width}x{result.height}",
            "usage": usage(result.usage),
            **making(spec, asked, result),
        }
    )


async def changed(request: Request, body: Delivery, spec: ModelSpec, output: Output, result: PictureResult) -> Response:
    """The answer of upscales and styles."""
    document = {
        "created": int(time.time()),
        "data": await delivery(request, body, [result.data], output),
        "output_format": output.format,
        "size": f"{result.width}x{result.height}",
        "usage": usage(result.usage),
        "model": spec.id,
    }
    if output.background != "auto":
        document["background"] = output.background
    return response(document)


def response(document: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")


async def delivery(request: Request, body: Delivery, files: Sequence[bytes], output: Output) -> list[dict[str, Any]]:
    services: Services = request.app.state.services
    if body.response_format != "url":
        return [{"b64_json": as_base64(data)} for data in files]
    assert services.media is not None  # can_be_delivered was asked
    return [{"url": link(request, await services.media.put(data, output.format))} for data in files]


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def making(spec: ModelSpec, asked: ImageRequest, result: ImageResult) -> dict[str, Any]:
    """With these values, the prompt, the seeds and what was sent along the pictures can be made again."""
    return {
        **({} if asked.strength is None else {"strength": asked.strength}),
        "model": spec.id,
        "variant": result.variant,
        "steps": result.steps,
        "guidance": result.guidance,
        "scheduler": result.scheduler,
    }


def background(output: Output) -> str:
    """OpenAI's response knows two words; what is not transparent is opaque."""
    return "transparent" if output.background == "transparent" else "opaque"


def quality(asked: ImageRequest, spec: ModelSpec) -> str:
    """By the steps that were asked for: fewer than the model's own are low, more are high."""
    own = TASK.settings_of(spec).steps
    if asked.steps is None or asked.steps == own:
        return "medium"
    return "low" if asked.steps < own else "high"


def usage(used: Usage) -> dict[str, Any]:
    """Models here write pictures, not tokens: the tokens are those of the prompt, and `images` counts the pictures."""
    read = used[PROMPT_TOKENS]
    return {
        "input_tokens": read,
        "input_tokens_details": {"text_tokens": read, "image_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 0},
        "total_tokens": read,
        "images": used[IMAGES],
    }
