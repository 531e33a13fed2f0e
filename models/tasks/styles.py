"""Style transfer: a picture in, the same scene painted in another style out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from models.specs import ModelSpec, VariantSpec
from models.tasks.images import Output
from models.tasks.methods import Unary, always
from models.tasks.upscaling import PictureResult


@dataclass(frozen=True, slots=True)
class StyleRequest:
    """
    Attributes:
        image: an encoded picture, the content.
        style: one of the model's named styles, or an encoded picture whose style is taken.
        strength: 1 is the whole style, 0 none; between, the two are mixed.
    """

    image: bytes
    style: str | bytes
    strength: float = 1.0
    output: Output = field(default_factory=Output)


STYLIZE = Unary("stylize", StyleRequest, PictureResult, large=always)


class StyleEngine(Protocol):
    """A loaded style model. Methods block and are called from one thread at a time."""

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self: ...

    def stylize(self, image: np.ndarray, style: str | np.ndarray) -> np.ndarray:
        """The picture in a named style or in that of another picture.

        Args:
            image, style: uint8, shape (height, width, 3), of any sizes.

        Returns:
            uint8, as large as `image`.
        """
        ...


class FakeStyles:
    """A named style turns the colours by its place in the list; a picture gives its mean colour."""

    def __init__(self, styles: tuple[str, ...]):
        self.styles = styles

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        return cls(spec.styles)

    def stylize(self, image: np.ndarray, style: str | np.ndarray) -> np.ndarray:
        if isinstance(style, str):
            return (255 - image) if self.styles.index(style) % 2 else np.roll(image, 1, axis=2)
        return ((image.astype(np.uint16) + style.mean((0, 1)).astype(np.uint16)) // 2).astype(np.uint8)
