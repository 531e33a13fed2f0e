"""The image engine with its networks on ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from models.engines.images_diffusers.adapters import Adapters
from models.engines.images_diffusers.controls import Controls
from models.engines.images_diffusers.denoising import LatentDenoising
from models.engines.images_diffusers.engine import DiffusersImages
from models.engines.images_diffusers.families import family_of
from models.engines.images_diffusers.loading import Options as DiffusersOptions
from models.engines.images_diffusers.loading import device_for
from models.engines.images_onnx.parts import OnnxAutoencoder, OnnxTextEncoder, OnnxUNet, OpenSession
from models.engines.onnx_session import open_session_of
from models.errors import InvalidRequest
from models.specs import ModelSpec, VariantSpec
from models.tasks.images import Picture

GRAPHS = {"text_encoder": OnnxTextEncoder, "text_encoder_2": OnnxTextEncoder, "unet": OnnxUNet}
# Medley checks the pictures of all models in deployments/servers/safety.py.
WITHOUT = {"safety_checker": None, "feature_extractor": None, "image_encoder": None, "requires_safety_checker": False}
NOT_HERE = "The ONNX form of this model has no {}. Ask for another of its variants, or leave them out."


@dataclass(frozen=True, slots=True)
class Options:
    """The options in a variant's `engine`.

    Attributes:
        provider: `cpu`, `cuda` or `tensorrt`. None: by the variant's `needs`.
        threads: per session. None: the replica's share.
        scheduler_config, largest_batch, memory, most_prompts: as for images on diffusers.
    """

    provider: str | None = None
    threads: int | None = None
    scheduler_config: dict[str, Any] = field(default_factory=dict)
    largest_batch: int = 16
    memory: tuple[tuple[int, int, int, int], ...] = ()
    most_prompts: int = 64

    @classmethod
    def of(cls, variant: VariantSpec) -> Self:
        """
        Raises:
            ValueError: there is no such option.
        """
        known = {option.name for option in fields(cls)}
        if unknown := set(variant.engine) - known:
            raise ValueError(f"images on ONNX Runtime have no engine option {min(unknown)}; they have {sorted(known)}")
        return cls(**variant.engine)


class OnnxImages(DiffusersImages):
    """DiffusersImages without ControlNets and adapters, which change the inside of a network: a graph is fixed."""

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        """
        Raises:
            ValueError: an option of the variant's `engine`, or the architecture, is unknown.
            RuntimeError: the variant needs a GPU or an execution provider that is missing.
        """
        options = Options.of(variant)
        device_for(variant)
        pipe = load_pipeline(weights, partial(open_session_of, variant))
        return cls.over(pipe, spec.limits.context_tokens, options)

    @classmethod
    def over(cls, pipe: Any, context_tokens: int, options: Options) -> Self:
        """The engine for a loaded pipeline."""
        return cls(
            family_of(pipe, context_tokens),
            Controls({}),
            Adapters(pipe, (), no_adapter, most=0),
            {**pipe.scheduler.config, **options.scheduler_config},
            DiffusersOptions(
                largest_batch=options.largest_batch, memory=options.memory, most_prompts=options.most_prompts
            ),
        )

    def start(self, picture: Picture) -> LatentDenoising:
        for param, given in (("controls", picture.controls), ("adapters", picture.adapters)):
            if given:
                raise InvalidRequest(NOT_HERE.format(param), param)
        return super().start(picture)


def no_adapter(name: str) -> Path:
    raise KeyError(name)


def load_pipeline(folder: Path, start: OpenSession) -> Any:
    """The pipeline that the folder's model_index.json names, with graphs as its parts, as far as prompts need it."""
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text())
    kind = class_of("diffusers", index["_class_name"])
    return kind(**{name: load_part(folder, name, value, start) for name, value in index.items() if name[0] != "_"})


def load_part(folder: Path, name: str, value: Any, start: OpenSession) -> Any:
    """
    Args:
        value: the part's entry in model_index.json: a module and a class, both None if it is absent, or a setting.
    """
    if name in WITHOUT:
        return WITHOUT[name]
    if name == "vae":
        return OnnxAutoencoder(folder, start)
    if name in GRAPHS:
        return GRAPHS[name](folder / name, start)
    if not isinstance(value, list):
        return value
    module, class_name = value
    return class_of(module, class_name).from_pretrained(folder / name, local_files_only=True)


def class_of(module: str, name: str) -> Any:
    return getattr(import_module(module), name)
