"""/v1/images/generations, /v1/images/edits and /v1/images/variations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fastapi import APIRouter, Request, Response

from deployments.router import calling
from deployments.router.endpoint import Example, response
from deployments.router.files import store_for_links
from deployments.router.multipart import read_form_or_body
from deployments.router.openapi import documented
from deployments.router.record import record_of
from deployments.router.routes.images import requests
from deployments.router.routes.images.answers import to_answer
from deployments.router.routes.images.bodies import EditBody, GenerationBody, Making, Prompted, VariationBody
from deployments.router.routes.images.events import Kind, events
from deployments.router.services import Services
from deployments.router.streaming import open_event_stream
from deployments.router.ways import asks
from deployments.router.wire import read_body
from models.errors import InvalidRequest
from models.media.samples import GREY_URL
from models.specs import ModelSpec
from models.tasks.images import MAKE, MAKE_STREAM, TASK, ImageRequest

router = APIRouter(tags=["Images"])

EXAMPLE = Example("/v1/images/generations", {"prompt": "a red circle on a blue background"})
EDIT = {**EXAMPLE.body, "image": GREY_URL}
VARIATION = {"image": GREY_URL}

GENERATED: Kind = "image_generation"
EDITED: Kind = "image_edit"

asks(TASK, EXAMPLE.body, GenerationBody, lambda body, spec: MAKE(requests.generation(body, spec)))
asks(TASK, EDIT, EditBody, lambda body, spec: MAKE(requests.edit(body, spec)))
asks(TASK, VARIATION, VariationBody, lambda body, spec: MAKE(requests.variation(body, spec)))

B = TypeVar("B", bound=Making)
Streamed = TypeVar("Streamed", bound=Prompted)


@router.post(
    EXAMPLE.path, **documented(GenerationBody, "Make pictures of a prompt", streams=True, example=EXAMPLE.body)
)
async def generations(request: Request) -> Response:
    """Pictures of a prompt, whole or as server-sent events with unfinished ones on the way."""
    body = await read_body(request, GenerationBody)
    if body.stream:
        return await streamed(request, body, requests.generation, GENERATED)
    return await whole(request, body, requests.generation)


@router.post(
    "/v1/images/edits",
    **documented(EditBody, "Change a picture by a prompt", streams=True, forms=True, example=EDIT),
)
async def edits(request: Request) -> Response:
    """A picture changed by a prompt: as a whole, or where a mask or its own transparent parts say."""
    body = await read_form_or_body(request, EditBody)
    if body.stream:
        return await streamed(request, body, requests.edit, EDITED)
    return await whole(request, body, requests.edit)


@router.post("/v1/images/variations", **documented(VariationBody, "Vary a picture", forms=True, example=VARIATION))
async def variations(request: Request) -> Response:
    """Pictures like the one that is sent."""
    return await whole(request, await read_form_or_body(request, VariationBody), requests.variation)


async def whole(request: Request, body: B, to_request: Callable[[B, ModelSpec], ImageRequest]) -> Response:
    """All pictures in one answer, or links to them."""
    store = store_for_links(request, body)
    services: Services = request.app.state.services
    spec = services.asked_for(body.model, TASK)
    asked = to_request(body, spec)
    result = await calling.call(request, spec, MAKE, asked)
    return await response(to_answer(result, asked, spec), request, store)


async def streamed(
    request: Request, body: Streamed, to_request: Callable[[Streamed, ModelSpec], ImageRequest], kind: Kind
) -> Response:
    """Pictures as they come, in events."""
    if body.response_format == "url":
        raise InvalidRequest("A stream has pictures as b64_json. Leave out response_format.", "response_format")
    services: Services = request.app.state.services
    spec = services.asked_for(body.model, TASK)
    asked = to_request(body, spec)
    record_of(request.scope).stream = True
    items = calling.stream(request, spec, MAKE_STREAM, asked)
    return await open_event_stream(
        request, events(items, kind, asked, spec, bool(body.progress)), services.keep_alive_s
    )
