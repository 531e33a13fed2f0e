"""Translates bodies to the task's requests.

A request that the model cannot fulfil is refused here, before it costs anything. The error names the model's limit, or
the nearest value that works.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from deployments.router.pictures import inspected, output
from deployments.router.routes.images.bodies import (
    ControlBody,
    EditBody,
    GenerationBody,
    Making,
    Prompted,
    VariationBody,
)
from deployments.router.sequences import check_pictures
from models.errors import InvalidMedia, InvalidRequest, UnsupportedParameter
from models.media.headers import ImageHeader
from models.specs import ModelSpec
from models.tasks.images import TASK, Adapter, Control, ImageRequest, ImageSettings

# The factor by which `quality` changes the model's own number of steps.
QUALITY = {"low": 0.5, "medium": 1.0, "standard": 1.0, "high": 2.0, "hd": 2.0}

_SIZE = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})")

# Capabilities of image models, as the catalog names them.
EDIT, INPAINT, VARY, NEGATIVE_PROMPT, TRANSPARENCY = "edit", "inpaint", "vary", "negative_prompt", "transparency"


def generation(body: GenerationBody, spec: ModelSpec) -> ImageRequest:
    """Raises InvalidRequest or UnsupportedParameter if this model cannot do it."""
    if body.style:
        raise UnsupportedParameter(
            "style is for DALL·E 3, which is not here. Name a style in the prompt, or send the finished picture to "
            "/v1/images/styles.",
            "style",
        )
    return prompted(body, spec)


def edit(body: EditBody, spec: ModelSpec) -> ImageRequest:
    """Raises InvalidRequest, UnsupportedParameter, InvalidMedia, PayloadTooLarge."""
    _needs(spec, EDIT, "change pictures", "image")
    if len(body.image) > 1:
        raise InvalidRequest(
            f"{spec.id} changes one picture; there are {len(body.image)}. A picture that only guides goes into "
            "controls.",
            "image",
        )
    if body.input_fidelity:
        raise UnsupportedParameter(
            "input_fidelity is not supported here. Say with strength how far to go from the picture: a lower one stays "
            "nearer to it.",
            "input_fidelity",
        )
    image = inspected(body.image[0], spec, "image")
    if body.mask is not None:
        _needs(spec, INPAINT, "repaint under a mask", "mask")
        mask = inspected(body.mask, spec, "mask")
        # Sorted, because EXIF orientation may turn one of them when it is decoded.
        if sorted((mask.width, mask.height)) != sorted((image.width, image.height)):
            raise InvalidMedia(
                f"mask has {mask.width}x{mask.height} pixels and image {image.width}x{image.height}. Send a mask as "
                "large as the image.",
                "mask",
            )
    return of_picture(replace(prompted(body, spec), mask=body.mask, strength=body.strength), body.image[0], image)


def variation(body: VariationBody, spec: ModelSpec) -> ImageRequest:
    """Raises InvalidRequest, UnsupportedParameter, InvalidMedia, PayloadTooLarge."""
    _needs(spec, VARY, "vary pictures", "image")
    image = inspected(body.image, spec, "image")
    strength = body.strength or _settings(spec).variation_strength
    return of_picture(replace(unprompted(body, spec), strength=strength), body.image, image)


def of_picture(asked: ImageRequest, image: bytes, header: ImageHeader) -> ImageRequest:
    """The request for a picture that is sent. Without a size of its own, the result is as large as that one."""
    if asked.width is None:
        asked.output.check(header.width, header.height)
    return replace(asked, image=image)


def prompted(body: Prompted, spec: ModelSpec) -> ImageRequest:
    """The part that generations and edits share."""
    return replace(
        unprompted(body, spec),
        prompt=body.prompt,
        negative_prompt=_negative_prompt(body, spec),
        guidance=body.guidance,
        controls=_controls(body.controls or (), spec),
        partial_images=body.partial_images or 0,
    )


def unprompted(body: Making, spec: ModelSpec) -> ImageRequest:
    """The fields of every request for pictures, with or without a prompt."""
    settings = _settings(spec)
    n = body.n or 1
    if n > settings.most_images:
        raise InvalidRequest(f"n: {spec.id} makes at most {settings.most_images} pictures at once, not {n}.", "n")
    if body.seed is not None and body.seed + n > 1 << 63:
        raise InvalidRequest("seed: the last picture's seed, seed + n - 1, must stay below 2**63.", "seed")
    if body.background == "transparent" and TRANSPARENCY not in spec.capabilities:
        raise UnsupportedParameter(
            f"{spec.id} makes opaque pictures only. Leave background out, or send opaque.", "background"
        )
    width, height = _size(body, spec, settings)
    steps = _steps(body, spec, settings)
    check_pictures(n, width, height, steps, settings)
    written = output(body)
    written.check(width or settings.width, height or settings.height)
    return ImageRequest(
        prompt="",
        n=n,
        width=width,
        height=height,
        steps=steps,
        scheduler=body.scheduler,
        seed=body.seed,
        adapters=_adapters(body, spec),
        output=written,
    )


def _settings(spec: ModelSpec) -> ImageSettings:
    return TASK.settings_of(spec)


def _needs(spec: ModelSpec, capability: str, what: str, param: str) -> None:
    if capability not in spec.capabilities:
        raise UnsupportedParameter(
            f"{spec.id} cannot {what}. GET /v1/models lists models with the capability {capability!r}.", param
        )


def _size(body: Making, spec: ModelSpec, settings: ImageSettings) -> tuple[int | None, int | None]:
    """Width and height in pixels; None for both is the model's choice."""
    if body.size in (None, "auto"):
        return None, None
    found = _SIZE.fullmatch(body.size)
    if not found:
        raise InvalidRequest(
            f"size is WIDTHxHEIGHT in pixels, such as {settings.width}x{settings.height}, or auto.", "size"
        )
    width, height = int(found[1]), int(found[2])
    nearest = settings.nearest(width, height)
    if (width, height) != nearest:
        raise InvalidRequest(
            f"size: {spec.id} makes pictures of {settings.smallest} to {settings.largest} pixels a side, in multiples "
            f"of {settings.multiple}, of at most {settings.most_megapixels:g} megapixels, so not {width}x{height}. "
            f"The nearest is {nearest[0]}x{nearest[1]}.",
            "size",
        )
    return width, height


def _steps(body: Making, spec: ModelSpec, settings: ImageSettings) -> int | None:
    if body.steps is not None:
        if body.quality not in (None, "auto"):
            raise InvalidRequest("quality sets the steps. Send one of the two.", "quality")
        if body.steps > settings.most_steps:
            raise InvalidRequest(
                f"steps: {spec.id} takes at most {settings.most_steps} steps, not {body.steps}.", "steps"
            )
        return body.steps
    if body.quality in (None, "auto"):
        return None
    return min(settings.most_steps, max(1, round(settings.steps * QUALITY[body.quality])))


def _negative_prompt(body: Prompted, spec: ModelSpec) -> str:
    if not body.negative_prompt:
        return ""
    _needs(spec, NEGATIVE_PROMPT, "keep away from a prompt", "negative_prompt")
    guidance = _settings(spec).guidance if body.guidance is None else body.guidance
    if guidance <= 1:
        raise InvalidRequest(
            f"negative_prompt has no effect with guidance {guidance:g}. Send guidance above 1, or leave it out.",
            "negative_prompt",
        )
    return body.negative_prompt


def _controls(controls: Sequence[ControlBody], spec: ModelSpec) -> tuple[Control, ...]:
    for index, control in enumerate(controls):
        at = f"controls[{index}]"
        _one_of(f"{at}.type", control.type, tuple(_settings(spec).controls), f"{spec.id} has the controls")
        inspected(control.image, spec, f"{at}.image")
    _are_different([control.type for control in controls], "controls")
    return tuple(Control(control.type, control.image, control.weight) for control in controls)


def _adapters(body: Making, spec: ModelSpec) -> tuple[Adapter, ...]:
    loras = body.loras or []
    for index, lora in enumerate(loras):
        _one_of(f"loras[{index}].name", lora.name, tuple(_settings(spec).adapters), f"{spec.id} has the LoRAs")
    _are_different([lora.name for lora in loras], "loras")
    return tuple(Adapter(lora.name, lora.weight) for lora in loras)


def _one_of(param: str, value: str, known: Sequence[str], they_are: str) -> str:
    if value in known:
        return value
    raise InvalidRequest(f"{param}: {value!r} is not known. {they_are} {', '.join(known) or '(none)'}.", param)


def _are_different(names: Sequence[str], param: str) -> None:
    if len(set(names)) < len(names):
        raise InvalidRequest(f"{param} names one of them twice. Send each once.", param)
