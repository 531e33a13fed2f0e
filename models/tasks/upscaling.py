"""Upscaling: a picture in, the same picture with several times as many pixels a side out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from models.media.formats import Output
from models.media.samples import GREY
from models.tasks.methods import Unary, always
from models.tasks.pictures import PictureResult
from models.tasks.task import Settings, Task
from models.tasks.usage import IMAGES

if TYPE_CHECKING:
    import numpy as np


class UpscalingSettings(Settings):
    scale: int = Field(gt=1, description="how many times larger a side becomes")

    def card(self) -> dict[str, Any]:
        return {"scale": self.scale}


@dataclass(frozen=True, slots=True)
class UpscaleRequest:
    """
    Attributes:
        image: an encoded picture.
    """

    image: bytes
    output: Output = field(default_factory=Output)


UPSCALE = Unary("upscale", UpscaleRequest, PictureResult, large=always)


class UpscalingEngine(Protocol):
    """A loaded upscaler. Methods block and are called from one thread at a time."""

    def upscale(self, image: np.ndarray, on_layer: Callable[[], None] = lambda: None) -> np.ndarray:
        """uint8, shape (height, width, 3) -> (height * scale, width * scale, 3).

        Args:
            on_layer: is called often while the model works. An exception that it raises ends the work.

        Raises:
            OutOfMemory: not even the smallest tiles fit. The memory is free again.
        """
        ...


TASK = Task(
    "upscaling",
    UpscalingSettings,
    methods=(UPSCALE,),
    counts=(IMAGES,),
    sample=lambda settings: (UPSCALE(UpscaleRequest(GREY)),),
)
