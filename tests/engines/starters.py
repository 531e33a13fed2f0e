"""Engines of the starter models as tests of every commit use them: in float32, from the files that `make models` made,
loaded once in a process however many tests ask. The starter model of a task is the first of the catalog whose weights
need no account."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from models.catalog import load_catalog
from models.registry import engine_class
from models.sources import HubSource
from models.specs import ModelSpec, Precision, VariantSpec
from models.tasks import TASKS, chat, embeddings, images, styles, upscaling
from models.weights import locate

STARTERS = {
    task: found[0].id
    for task in TASKS
    if (found := [spec for spec in load_catalog().of_task(task) if not isinstance(spec.source, HubSource)])
}
CHAT, EMBEDDINGS, IMAGES, UPSCALING, STYLES = (
    STARTERS[module.TASK] for module in (chat, embeddings, images, upscaling, styles)
)


def row(model: str, variant: str | None = None) -> tuple[ModelSpec, VariantSpec]:
    """A model and a variant of it, of whatever precision, in float32."""
    spec = load_catalog().resolve(model)
    return spec, spec.variant(variant).model_copy(update={"precision": Precision.FP32})


def load_engine(spec: ModelSpec, variant: VariantSpec) -> Any:
    """Load a variant in this process from its weights, which must be on this machine."""
    return engine_class(spec.task, variant.backend).load(spec, variant, locate(spec, variant))


@cache
def starter(model: str, variant: str | None = None) -> Any:
    """Its engine. Where its files are missing, the error says how they come."""
    return load_engine(*row(model, variant))


LAYERS = 3


def shallow_chat(folder: Path) -> Path:
    """The starter chat model with its first layers only, a fifth of the work: its tokens, and nothing that it knew."""
    whole = locate(*row(CHAT, "transformers"))
    for file in whole.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    config = json.loads((whole / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS}))
    return folder
