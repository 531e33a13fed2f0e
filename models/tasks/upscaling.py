"""Upscaling: a picture in, the same picture with several times as many pixels a side out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from models.specs import ModelSpec, VariantSpec
from models.tasks.images import Output
from models.tasks.methods import Unary, always
from models.tasks.usage import NOTHING, Usage


@dataclass(frozen=True, slots=True)
class UpscaleRequest:
    """
    Attributes:
        image: an encoded picture.
    """

    image: bytes
    output: Output = field(default_factory=Output)


@dataclass(frozen=True, slots=True)
class PictureResult:
    """One picture, changed: of an upscaler or a style model. `data` is a file of the format asked for."""

    data: bytes
    width: int
    height: int
    usage: Usage = NOTHING


UPSCALE = Unary("upscale", UpscaleRequest, PictureResult, large=always)


class UpscalingEngine(Protocol):
    """A loaded upscaler. Methods block and are called from one thread at a time."""

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self: ...

    def upscale(self, image: np.ndarray, on_layer: Callable[[], None] = lambda: None) -> np.ndarray:
        """uint8, shape (height, width, 3) -> (height * scale, width * scale, 3).

        Args:
            on_layer: is called many times on the way; what it raises ends the work.

        Raises:
            OutOfMemory: even in the smallest tiles. The memory is free again.
        """
        ...


class FakeUpscaling:
    """Repeats pixels."""

    def __init__(self, scale: int):
        self.scale = scale

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        assert spec.scale is not None
        return cls(spec.scale)

    def upscale(self, image: np.ndarray, on_layer: Callable[[], None] = lambda: None) -> np.ndarray:
        on_layer()
        return image.repeat(self.scale, axis=0).repeat(self.scale, axis=1)
