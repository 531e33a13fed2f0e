"""Upscaling on torch, on a CPU or a GPU. Large pictures are done in tiles, so that memory does not grow with them.

A tile is worked on with as much around it as shows in it, so the result has no seams. At the picture's own edge nothing
is around it, and the network pads as it was trained.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file

from models.engines.networks.real_esrgan import SCALE, build
from models.errors import OutOfMemory
from models.specs import ModelSpec, Precision, VariantSpec

DTYPES = {Precision.FP32: torch.float32, Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}
SMALLEST_TILE = 32


class TorchUpscaling:
    """
    Args:
        trunk_tile: side of the tiles of the network's first part, in pixels of the picture.
        draw_tile: and of its second part, which takes about 16 times the memory for each pixel.
    """

    def __init__(self, folder: Path, device: str, dtype: torch.dtype, trunk_tile: int = 320, draw_tile: int = 128):
        self.device = device
        self.dtype = dtype
        self.trunk_tile = trunk_tile
        self.draw_tile = draw_tile
        network = build(json.loads((folder / "config.json").read_text())).eval()
        network.load_state_dict(load_file(folder / "model.safetensors"))
        self.network = network.to(device, dtype, memory_format=torch.channels_last)
        self._on_layer: Callable[[], None] = lambda: None
        for layer in self.network.body:
            layer.register_forward_pre_hook(lambda *_: self._on_layer())

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        if variant.needs.gpus and not torch.cuda.is_available():
            raise RuntimeError("This variant needs a GPU and torch sees none. Choose a CPU variant.")
        if spec.scale != SCALE:
            raise ValueError(f"these networks enlarge {SCALE} times, not {spec.scale}")
        if not variant.needs.gpus:
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or max(1, round(variant.needs.cpus))))
        device = "cuda" if variant.needs.gpus else "cpu"
        return cls(weights, device, DTYPES[variant.precision], **variant.engine)

    def upscale(self, image: np.ndarray, on_layer: Callable[[], None] = lambda: None) -> np.ndarray:
        self._on_layer = on_layer
        trunk_tile, draw_tile = self.trunk_tile, self.draw_tile
        while True:
            try:
                return self._in_tiles(image, trunk_tile, draw_tile)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the `except`, where the error no longer holds the tensors of the tile that failed.
            if self.device == "cuda":
                torch.cuda.empty_cache()
            trunk_tile, draw_tile = max(SMALLEST_TILE, trunk_tile // 2), draw_tile // 2
            if draw_tile < SMALLEST_TILE:
                raise OutOfMemory(
                    "There is not enough memory to upscale this picture now. Try again, or send a smaller one."
                )

    @torch.inference_mode()
    def _in_tiles(self, image: np.ndarray, trunk_tile: int, draw_tile: int) -> np.ndarray:
        height, width = image.shape[:2]
        result = np.empty((height * SCALE, width * SCALE, 3), np.uint8)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        # What is drawn at the edge of a trunk's tile sees beyond it, so the trunk's tiles reach farther by that.
        near = self.network.draw_reach
        far = self.network.trunk_reach + near
        for rows, columns in tiles(Span(0, height, height), Span(0, width, width), trunk_tile, far):
            features = self.network.trunk(self._unit(pixels[:, :, rows.seen, columns.seen]))
            for lines, dots in tiles(rows, columns, draw_tile, near):
                large = self.network.draw(features[:, :, lines.seen_from(rows), dots.seen_from(columns)])
                result[lines.enlarged, dots.enlarged] = self._eight_bits(large[:, :, lines.kept, dots.kept])
        return result

    def _unit(self, pixels: torch.Tensor) -> torch.Tensor:
        scaled = pixels.to(self.device).to(self.dtype) / 255
        return scaled.contiguous(memory_format=torch.channels_last)

    def _eight_bits(self, large: torch.Tensor) -> np.ndarray:
        pixels = large[0].permute(1, 2, 0).float().clamp(0, 1).mul_(255).round_().to(torch.uint8)
        return pixels.cpu().numpy()


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the rows or columns of a picture, of which there are `limit`, and what around it shows in it."""

    start: int
    stop: int
    limit: int
    first_seen: int = 0
    last_seen: int = 0

    @property
    def seen(self) -> slice:
        return slice(self.first_seen, self.last_seen)

    def seen_from(self, other: Span) -> slice:
        """`seen`, counted from the first that `other` sees."""
        return slice(self.first_seen - other.first_seen, self.last_seen - other.first_seen)

    @property
    def kept(self) -> slice:
        """Of the enlarged `seen`, what is no margin."""
        return slice((self.start - self.first_seen) * SCALE, (self.stop - self.first_seen) * SCALE)

    @property
    def enlarged(self) -> slice:
        return slice(self.start * SCALE, self.stop * SCALE)


def tiles(rows: Span, columns: Span, side: int, reach: int) -> Iterator[tuple[Span, Span]]:
    return product(spans(rows, side, reach), spans(columns, side, reach))


def spans(whole: Span, side: int, reach: int) -> Iterator[Span]:
    """Parts of nearly equal length, none above `side`, that see `reach` on both sides where there is so much.

    One part, where that sees no more than a part in the middle would.
    """
    length = whole.stop - whole.start
    parts = 1 if length <= side + 2 * reach else -(-length // side)
    for part in range(parts):
        start, stop = (whole.start + length * end // parts for end in (part, part + 1))
        yield Span(start, stop, whole.limit, max(0, start - reach), min(whole.limit, stop + reach))
