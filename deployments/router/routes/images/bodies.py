"""The bodies of /v1/images: OpenAI's fields, and ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic_core
from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from deployments.router.pictures import Fraction, Picture, PictureBody
from deployments.router.wire import Many, WireModel

MOST_PARTIAL_IMAGES = 3


def as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def from_json_text(value: Any) -> Any:
    """In a form, lists of objects may come as JSON."""
    if not isinstance(value, str | bytes):
        return value
    try:
        return pydantic_core.from_json(value, allow_inf_nan=False)
    except ValueError:
        raise ValueError("is not valid JSON") from None


class Lora(WireModel):
    name: str = Field(min_length=1, max_length=100)
    """One of the model's adapters."""
    weight: float = Field(default=1.0, ge=-4, le=4, allow_inf_nan=False)


class ControlBody(WireModel):
    type: str = Field(min_length=1, max_length=100)
    """One of the model's controls, such as `canny`."""
    image: Picture
    """A picture of the edges, the depth or the pose. It is used as it is: nothing is detected in it."""
    weight: float = Field(default=1.0, ge=0, le=4, allow_inf_nan=False)


Loras = Annotated[Annotated[Many[Lora], Field(max_length=16)], BeforeValidator(from_json_text)]
Controls = Annotated[Annotated[Many[ControlBody], Field(max_length=8)], BeforeValidator(from_json_text)]


class Making(PictureBody):
    """How pictures are made, with or without a prompt."""

    n: int | None = Field(default=None, ge=1, lt=1 << 31)
    size: str | None = Field(default=None, max_length=40)
    """`WIDTHxHEIGHT` in pixels, or `auto`."""
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] | None = None
    """Sets the steps: `low` half of the model's own, `medium` and `standard` its own, `high` and `hd` twice as many."""
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    """The same seed gives the same picture on the same variant and hardware; picture i of n has seed + i."""
    steps: int | None = Field(
        default=None, ge=1, lt=1 << 31, validation_alias=AliasChoices("steps", "num_inference_steps")
    )
    """Of denoising. Also as `num_inference_steps`."""
    scheduler: str | None = Field(default=None, pattern="^[A-Za-z0-9_+ -]{1,64}$")
    loras: Loras | None = None


class Streaming(WireModel):
    stream: bool | None = None
    partial_images: int | None = Field(default=None, ge=0, le=MOST_PARTIAL_IMAGES)
    """Unfinished pictures that a stream shows of each one."""
    progress: bool | None = None
    """A stream has an event for each step too. Not OpenAI's."""

    @model_validator(mode="after")
    def _a_stream_is_asked_for(self) -> Streaming:
        for name in ("partial_images", "progress"):
            if getattr(self, name) and not self.stream:
                raise ValueError(f"{name} needs stream: true")
        return self


class Prompted(Making, Streaming):
    """The fields that generations and edits share."""

    prompt: str = Field(min_length=1, max_length=32000)
    negative_prompt: str | None = Field(default=None, max_length=32000)
    guidance: float | None = Field(
        default=None, ge=0, le=50, allow_inf_nan=False, validation_alias=AliasChoices("guidance", "guidance_scale")
    )
    """How closely to follow the prompt. Also as `guidance_scale`."""
    controls: Controls | None = None
    """Pictures that say where things are, for models with ControlNets."""
    moderation: Literal["auto", "low"] | None = None
    """Accepted; what is filtered is the operator's choice."""


class GenerationBody(Prompted):
    style: Literal["vivid", "natural"] | None = None
    """Refused: it is for DALL·E 3."""


class EditBody(Prompted):
    image: Annotated[Annotated[Many[Picture], Field(min_length=1, max_length=16)], BeforeValidator(as_list)] = Field(
        validation_alias=AliasChoices("image", "images")
    )
    """The picture to change; models here take one. Also as `images`, a list of `{"image_url": <data URL>}`."""
    mask: Picture | None = None
    """As large as the picture. What is transparent in it is repainted; what is white, if it has no alpha channel."""
    strength: Fraction | None = None
    """How far to go from the picture: near 0 changes little, 1 everything."""
    input_fidelity: Literal["high", "low"] | None = None
    """Refused: use `strength`, which is a number."""


class VariationBody(Making):
    image: Picture
    strength: Fraction | None = None
    """How far to go from the picture: near 0 changes little, 1 everything."""
