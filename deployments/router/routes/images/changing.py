"""/v1/images/upscales and /v1/images/styles. Not OpenAI's; they answer in the form of its images endpoints."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from deployments.router import calling
from deployments.router.multipart import read_form_or_body
from deployments.router.openapi import ERRORS, documented, refusal
from deployments.router.routes.images import answers, requests
from deployments.router.routes.images.bodies import StyleBody, UpscaleBody
from deployments.router.services import Services
from models.specs import ModelSpec
from models.tasks import styles as styling
from models.tasks import upscaling
from models.tasks.styles import STYLIZE
from models.tasks.task import Task
from models.tasks.upscaling import UPSCALE

router = APIRouter(tags=["Images"])


@router.post("/v1/images/upscales", **documented(UpscaleBody, "Enlarge a picture", forms=True))
async def upscales(request: Request) -> Response:
    """The picture with several times as many pixels a side; the model has the number."""
    body = await read_form_or_body(request, UpscaleBody)
    answers.can_be_delivered(request, body)
    spec = model_for(request, body.model, upscaling.TASK)
    asked = requests.upscale(body, spec)
    result = await calling.call(request, spec, UPSCALE, asked)
    return await answers.changed(request, body, spec, asked.output, result)


@router.post("/v1/images/styles", **documented(StyleBody, "Paint a picture in another style", forms=True))
async def styles(request: Request) -> Response:
    """The scene of one picture in a named style, or in that of another picture."""
    body = await read_form_or_body(request, StyleBody)
    answers.can_be_delivered(request, body)
    spec = model_for(request, body.model, styling.TASK)
    asked = requests.stylization(body, spec)
    result = await calling.call(request, spec, STYLIZE, asked)
    return await answers.changed(request, body, spec, asked.output, result)


# 4XX rather than single ones, because without it FastAPI describes a 422 of its own, which is never sent.
@router.get("/v1/images/styles", summary="Names of styles", responses={"4XX": refusal(ERRORS["404"])})
async def list_styles(request: Request, model: str | None = None) -> dict[str, Any]:
    """What `style` can be. Without `model`, of the first style model that is running."""
    spec = model_for(request, model, styling.TASK)
    return {"object": "list", "model": spec.id, "data": list(styling.TASK.settings_of(spec).styles)}


def model_for(request: Request, model: str | None, task: Task[Any]) -> ModelSpec:
    services: Services = request.app.state.services
    return services.resolve(model, task) if model else services.choose(task)
