"""Rows of models that are served by fakes: quick, and able to do all that their task has."""

from __future__ import annotations

from typing import Any

from replicas import faked

from models.catalog import load_catalog
from models.specs import ModelSpec
from models.tasks.images import ImageSettings
from models.tasks.task import Task

SETTINGS = ImageSettings(
    width=64,
    height=64,
    smallest=32,
    largest=128,
    multiple=8,
    most_megapixels=0.0125,
    most_images=4,
    steps=6,
    most_steps=10,
    guidance=5,
    scheduler="fake",
)
COMMON: dict[str, Any] = {
    "licence": "none",
    "owner": "tests",
    "source": {"kind": "none"},
    "limits": {"megapixels": 0.1},
    "default_variant": "fake",
    "variants": {"fake": {"backend": "fake", "precision": "fp32", "needs": {"cpus": 1, "memory_gib": 1}}},
}


def spec(name: str, task: str, **rest: Any) -> ModelSpec:
    return ModelSpec.model_validate({"id": name, "title": name, "task": task, **COMMON, **rest})


PAINTER = spec(
    "painter",
    "images",
    settings=SETTINGS.model_dump()
    | {
        "controls": {"canny": {"kind": "none"}, "depth": {"kind": "none"}},
        "adapters": {"watercolour": {"kind": "none"}, "pixel-art": {"kind": "none"}},
    },
    capabilities={"generate", "edit", "inpaint", "vary", "negative_prompt"},
)
TURBO = spec("turbo", "images", settings=SETTINGS.model_dump() | {"guidance": 0, "steps": 1}, capabilities={"generate"})
UPSCALER = spec("upscaler", "upscaling", settings={"scale": 4})
STYLER = spec("styler", "styles", settings={"styles": ("negative", "rolled")})


def small_model(task: Task[Any]) -> ModelSpec:
    """A quick model of a task: one of these, else the first of the catalog, on the task's fake engine."""
    for one in (PAINTER, UPSCALER, STYLER):
        if one.task is task:
            return one
    return faked(load_catalog().of_task(task)[0])
