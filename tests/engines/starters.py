"""Engines of the starter models as tests of every commit use them: in float32, from the files that `make models` made,
loaded once in a process however many tests ask."""

from functools import cache
from typing import Any

from models.catalog import load_catalog
from models.registry import load_engine
from models.specs import ModelSpec, Precision, VariantSpec

CHAT = "smollm2-135m-instruct"
EMBEDDINGS = "all-minilm-l6-v2"
IMAGES = "doodle-turbo"
UPSCALING = "realesr-animevideov3"
STYLES = "magenta-styles"


def row(model: str, variant: str | None = None) -> tuple[ModelSpec, VariantSpec]:
    """A model and a variant of it, of whatever precision, in float32."""
    spec = load_catalog().resolve(model)
    return spec, spec.variant(variant).model_copy(update={"precision": Precision.FP32})


@cache
def starter(model: str, variant: str | None = None) -> Any:
    """Its engine. Where its files are missing, the error says how they come."""
    return load_engine(*row(model, variant))
