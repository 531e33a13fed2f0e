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
    """What answers and events of streams both say."""
    return {
        "background": background(asked.output),
        "output_format": asked.output.format,
        "quality": quality(asked, spec),
    }


def making(result: ImageResult, asked: ImageRequest, spec: ModelSpec) -> dict[str, Any]:
    """With these values, the prompt, the seeds and what was sent along, the pictures can be made again."""
    return {
        **({} if asked.strength is None else {"strength": asked.strength}),
        "model": spec.id,
        "variant": result.variant,
        "steps": result.steps,
        "guidance": result.guidance,
        "scheduler": result.scheduler,
    }


def background(output: Output) -> str:
    """OpenAI's response has two words for it: what is not transparent is opaque."""
    return "transparent" if output.background == "transparent" else "opaque"


def quality(asked: ImageRequest, spec: ModelSpec) -> str:
    """Told by the steps that were asked for: `low` for fewer than the model's own, `high` for more."""
    own = TASK.settings_of(spec).steps
    if asked.steps is None or asked.steps == own:
        return "medium"
    return "low" if asked.steps < own else "high"
