"""Style transfer on ONNX Runtime: one network for named styles, and two for the style of any picture.

named      a weight for each trained style: Dumoulin, Shlens, Kudlur, 2017, https://arxiv.org/abs/1610.07629
pictures   one network reads 100 numbers from the style picture, the other paints with them: Ghiasi, Lee, Kudlur,
           Dumoulin, Shlens, 2017, https://arxiv.org/abs/1705.06830
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from models.engines.onnx_session import open_session_of
from models.errors import OutOfMemory
from models.specs import ModelSpec, VariantSpec
from models.tasks.styles import TASK

# The networks halve a picture twice, and their reflection padding needs a few pixels.
MULTIPLE = 4
SMALLEST_SIDE = 32
# The network that reads a style accepts only this size.
READ_SIDE = 256
# Strokes have a fixed size in pixels and vanish on a much larger picture. The limit also bounds memory.
PAINTED_SIDE = 1024

LANCZOS = Image.Resampling.LANCZOS


class Engine:
    def __init__(self, folder: Path, styles: tuple[str, ...], variant: VariantSpec):
        self.styles = styles
        self.named = open_session_of(variant, folder / "multistyle26.onnx")
        self.reader = open_session_of(variant, folder / "arbitrary_predict.onnx")
        self.painter = open_session_of(variant, folder / "arbitrary_transform.onnx")
        (known,) = next(item.shape for item in self.named.get_inputs() if item.name == "style_weights")
        if known != len(styles):
            raise ValueError(f"the network has {known} styles and the catalog names {len(styles)}")

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        return cls(weights, TASK.settings_of(spec).styles, variant)

    def stylize(self, image: np.ndarray, style: str | np.ndarray) -> np.ndarray:
        try:
            if isinstance(style, str):
                index = self.styles.index(style)
                return painted(image, lambda pixels: self._paint_named(pixels, index))
            vector = self._read(style)
            return painted(image, lambda pixels: self._paint_as(pixels, vector))
        except Exception as error:
            if isinstance(error, MemoryError) or "Failed to allocate memory" in str(error):
                raise OutOfMemory(
                    "There is not enough memory for this picture now. Try again, or send a smaller one."
                ) from None
            raise

    def _paint_named(self, pixels: np.ndarray, style: int) -> np.ndarray:
        weights = np.zeros(len(self.styles), np.float32)
        weights[style] = 1
        inputs = {"image": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]), "style_weights": weights}
        return np.asarray(self.named.run(None, inputs)[0])[0].transpose(1, 2, 0)

    def _paint_as(self, pixels: np.ndarray, vector: np.ndarray) -> np.ndarray:
        image, style = (item.name for item in self.painter.get_inputs())
        return np.asarray(self.painter.run(None, {image: pixels[None], style: vector})[0])[0]

    def _read(self, style: np.ndarray) -> np.ndarray:
        """The style of the middle of a picture: float32, shape (1, 1, 1, 100)."""
        height, width = style.shape[:2]
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        middle = Image.fromarray(style[top : top + side, left : left + side]).resize((READ_SIDE, READ_SIDE), LANCZOS)
        return np.asarray(self.reader.run(None, {self.reader.get_inputs()[0].name: unit(np.asarray(middle))[None]})[0])


def painted(image: np.ndarray, paint: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply `paint`, which works on floats from 0 to 1 in certain sizes, to uint8 of any size."""
    height, width = image.shape[:2]
    shrink = min(1, PAINTED_SIDE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small = np.asarray(Image.fromarray(image).resize(size, LANCZOS)) if shrink < 1 else image
    result = np.clip(paint(reflected(unit(small)))[: size[1], : size[0]], 0, 1)
    pixels = (result * 255 + 0.5).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((width, height), LANCZOS)) if shrink < 1 else pixels


def reflected(image: np.ndarray) -> np.ndarray:
    """Pad the bottom and the right to a size that the networks accept. The padding mirrors the picture, because any
    edge there would be painted too."""
    rows, columns = (max(SMALLEST_SIDE, -(-side // MULTIPLE) * MULTIPLE) - side for side in image.shape[:2])
    return np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="reflect")


def unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255
