"""/v1/images/styles: pictures in another style, and the names of styles. Not OpenAI's."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import Field, model_validator

from deployments.router.endpoint import Example, endpoint
from deployments.router.openapi import ERRORS, refusal
from deployments.router.pictures import (
    Fraction,
    Picture,
    PictureBody,
    changed,
    inspected,
    inspected_and_writable,
    output,
)
from deployments.router.services import Services
from models.media.samples import GREY_URL
from models.specs import ModelSpec
from models.tasks.styles import STYLIZE, TASK, StyleRequest


class StyleBody(PictureBody):
    image: Picture
    style: str | None = Field(default=None, min_length=1, max_length=100)
    """A named style: GET /v1/images/styles lists them."""
    style_image: Picture | None = None
    """A picture whose style is taken instead."""
    strength: Fraction | None = None
    """1 is the whole style; below, it is mixed with the picture."""

    @model_validator(mode="after")
    def _one_style(self) -> StyleBody:
        if (self.style is None) == (self.style_image is None):
            raise ValueError("send either style, a name, or style_image, a picture")
        return self


def to_request(body: StyleBody, spec: ModelSpec) -> StyleRequest:
    """Raises InvalidRequest, InvalidMedia, PayloadTooLarge."""
    written = output(body)
    inspected_and_writable(body.image, spec, written)
    if body.style_image is not None:
        inspected(body.style_image, spec, "style_image")
        style: str | bytes = body.style_image
    else:
        style = TASK.settings_of(spec).style_named(body.style or "")
    return StyleRequest(body.image, style, body.strength or 1.0, written)


# Every style model accepts a style picture, but each has its own named styles.
EXAMPLE = Example("/v1/images/styles", {"image": GREY_URL, "style_image": GREY_URL})

router = endpoint(
    EXAMPLE,
    TASK,
    STYLIZE,
    StyleBody,
    to_request=to_request,
    to_answer=changed,
    tag="Images",
    summary="Paint a picture in another style",
    about="The scene of one picture in a named style, or in that of another picture.",
    forms=True,
)


# 4XX rather than single codes, because FastAPI would otherwise add a 422 that is never sent.
@router.get("/v1/images/styles", summary="Names of styles", responses={"4XX": refusal(ERRORS["404"])})
async def list_styles(request: Request, model: str | None = None) -> dict[str, Any]:
    """What `style` can be. Without `model`, of the first style model that is running."""
    services: Services = request.app.state.services
    spec = services.asked_for(model, TASK)
    return {"object": "list", "model": spec.id, "data": list(TASK.settings_of(spec).styles)}
