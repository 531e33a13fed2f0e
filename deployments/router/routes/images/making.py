"""/v1/images/generations, /v1/images/edits and /v1/images/variations."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from deployments.router import calling
from deployments.router.multipart import read_form_or_body
from deployments.router.openapi import documented
from deployments.router.record import record_of
from deployments.router.routes.images import answers, requests
from deployments.router.routes.images.bodies import Delivery, EditBody, GenerationBody, Streaming, VariationBody
from deployments.router.routes.images.events import Kind, events
from deployments.router.services import Services
from deployments.router.streaming import open_event_stream
from deployments.router.wire import read_body
from models.specs import ModelSpec
from models.tasks.images import MAKE, MAKE_STREAM, TASK, ImageRequest

router = APIRouter(tags=["Images"])


@router.post("/v1/images/generations", **documented(GenerationBody, "Make pictures of a prompt", streams=True))
async def generations(request: Request) -> Response:
    """Pictures of a prompt, whole or as server-sent events with unfinished ones on the way."""
    body = await read_body(request, GenerationBody)
    answers.can_be_delivered(request, body, bool(body.stream))
    spec = image_model(request, body)
    asked = requests.generation(body, spec)
    if body.stream:
        return await streamed(request, "image_generation", body, spec, asked)
    return await whole(request, body, spec, asked)


@router.post("/v1/images/edits", **documented(EditBody, "Change a picture by a prompt", streams=True, forms=True))
async def edits(request: Request) -> Response:
    """A picture changed by a prompt: as a whole, or where a mask or its own transparent parts say."""
    body = await read_form_or_body(request, EditBody)
    answers.can_be_delivered(request, body, bool(body.stream))
    spec = image_model(request, body)
    asked = requests.edit(body, spec)
    if body.stream:
        return await streamed(request, "image_edit", body, spec, asked)
    return await whole(request, body, spec, asked)


@router.post("/v1/images/variations", **documented(VariationBody, "Vary a picture", forms=True))
async def variations(request: Request) -> Response:
    """Pictures like the one that is sent."""
    body = await read_form_or_body(request, VariationBody)
    answers.can_be_delivered(request, body)
    spec = image_model(request, body)
    return await whole(request, body, spec, requests.variation(body, spec))


def image_model(request: Request, body: Delivery) -> ModelSpec:
    services: Services = request.app.state.services
    return services.resolve(body.model, TASK) if body.model else services.choose(TASK)


async def whole(request: Request, body: Delivery, spec: ModelSpec, asked: ImageRequest) -> Response:
    result = await calling.call(request, spec, MAKE, asked)
    return await answers.made(request, body, spec, asked, result)


async def streamed(request: Request, kind: Kind, body: Streaming, spec: ModelSpec, asked: ImageRequest) -> Response:
    services: Services = request.app.state.services
    record_of(request.scope).stream = True
    items = calling.stream(request, spec, MAKE_STREAM, asked)
    return await open_event_stream(
        request, events(items, kind, asked, spec, bool(body.progress)), services.keep_alive_s
    )
