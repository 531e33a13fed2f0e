"""Finished pictures as OpenAI's images response, with what is needed to make them again."""

from __future__ import annotations

from typing import Any

from deployments.router.files import File, WithFiles
from deployments.router.pictures import usage
from models.media.formats import Output
from models.specs import ModelSpec
from models.tasks.images import TASK, ImageRequest, ImageResult


def to_answer(result: ImageResult, asked: ImageRequest, spec: ModelSpec) -> WithFiles:
    """The answer of generations, edits and variations."""
    return WithFiles(
        [File(image.data, result.format, {"seed": image.seed}) for image in result.images],
        {
            **common(asked, spec),
            "size": f"{result.width}x{result.height}",
            "usage": usage(result.usage),
            **making(result, asked, spec),
        },
    )


def common(asked: ImageRequest, spec: ModelSpec) -> dict[str, Any]:
    """The fields that answers and stream events share."""
    return {
        "background": background(asked.output),
        "output_format": asked.output.format,
        "quality": quality(asked, spec),
    }


def making(result: ImageResult, asked: ImageRequest, spec: ModelSpec) -> dict[str, Any]:
    """The values that, with the prompt, the seeds and the client's pictures, make the same pictures again."""
    return {
        **({} if asked.strength is None else {"strength": asked.strength}),
        "model": spec.id,
        "variant": result.variant,
        "steps": result.steps,
        "guidance": result.guidance,
        "scheduler": result.scheduler,
    }


def background(output: Output) -> str:
    """OpenAI's responses know only two values: not transparent means opaque."""
    return "transparent" if output.background == "transparent" else "opaque"


def quality(asked: ImageRequest, spec: ModelSpec) -> str:
    """Derived from the steps: `low` for fewer than the model's own, `high` for more."""
    own = TASK.settings_of(spec).steps
    if asked.steps is None or asked.steps == own:
        return "medium"
    return "low" if asked.steps < own else "high"
