"""/v1/images/upscales. Not OpenAI's."""

from __future__ import annotations

from pydantic import Field

from deployments.router.endpoint import Example, endpoint
from deployments.router.pictures import Picture, PictureBody, changed, inspected_and_writable, output
from models.errors import InvalidRequest
from models.media.samples import GREY_URL
from models.specs import ModelSpec
from models.tasks.upscaling import TASK, UPSCALE, UpscaleRequest


class UpscaleBody(PictureBody):
    image: Picture
    scale: int | None = Field(default=None, ge=1, lt=1 << 31)
    """How many times larger; upscalers know one scale each."""


def to_request(body: UpscaleBody, spec: ModelSpec) -> UpscaleRequest:
    """Raises InvalidRequest, InvalidMedia, PayloadTooLarge."""
    scale = TASK.settings_of(spec).scale
    if body.scale not in (None, scale):
        raise InvalidRequest(f"{spec.id} makes pictures {scale} times larger, no other scale.", "scale")
    written = output(body)
    inspected_and_writable(body.image, spec, written, scale)
    return UpscaleRequest(body.image, written)


EXAMPLE = Example("/v1/images/upscales", {"image": GREY_URL})

router = endpoint(
    EXAMPLE,
    TASK,
    UPSCALE,
    UpscaleBody,
    to_request=to_request,
    to_answer=changed,
    tag="Images",
    summary="Enlarge a picture",
    about="The picture with several times as many pixels a side; the model has the number.",
    forms=True,
)
