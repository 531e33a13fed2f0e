"""Upscaling on torch, on a CPU or a GPU."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file

from models.engines.networks.real_esrgan import SCALE, build
from models.engines.upscaling_tiles import TiledUpscaling
from models.specs import ModelSpec, Precision, VariantSpec
from models.tasks.upscaling import TASK

DTYPES = {Precision.FP32: torch.float32, Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}

PARTS = ("trunk", "draw")


class Engine(TiledUpscaling):
    """
    Args:
        compile: have torch compile the network's two parts. That takes a minute at the first picture, and work can then
            be stopped only between tiles, not between layers.
    """

    def __init__(self, folder: Path, device: str, dtype: torch.dtype, compile: bool = False, **tiles: int):
        super().__init__(**tiles)
        self.device = device
        self.dtype = dtype
        network = build(json.loads((folder / "config.json").read_text())).eval()
        network.load_state_dict(load_file(folder / "model.safetensors"))
        self.network = network.to(device, dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.compiled = {part: torch.compile(getattr(network, part), dynamic=True) for part in PARTS} if compile else {}
        if not compile:
            for layer in self.network.body:
                layer.register_forward_pre_hook(lambda *_: self._on_layer())

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        if variant.needs.gpus and not torch.cuda.is_available():
            raise RuntimeError("This variant needs a GPU and torch sees none. Choose a CPU variant.")
        if (scale := TASK.settings_of(spec).scale) != SCALE:
            raise ValueError(f"these networks enlarge {SCALE} times, not {scale}")
        if not variant.needs.gpus:
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or max(1, round(variant.needs.cpus))))
        device = "cuda" if variant.needs.gpus else "cpu"
        return cls(weights, device, DTYPES[variant.precision], **variant.engine)

    @property
    def reaches(self) -> tuple[int, int]:
        return self.network.trunk_reach, self.network.draw_reach

    @torch.inference_mode()
    def trunk(self, pixels: np.ndarray) -> torch.Tensor:
        scaled = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].to(self.device).to(self.dtype) / 255
        return self._run("trunk", scaled.contiguous(memory_format=torch.channels_last))

    @torch.inference_mode()
    def draw(self, features: torch.Tensor, rows: slice, columns: slice) -> np.ndarray:
        large = self._run("draw", features[:, :, rows, columns])
        pixels = large[0].permute(1, 2, 0).float().clamp(0, 1).mul_(255).round_().to(torch.uint8)
        return pixels.cpu().numpy()

    def _run(self, part: str, value: torch.Tensor) -> torch.Tensor:
        if part not in self.compiled:
            return getattr(self.network, part)(value)
        self._on_layer()
        return self.compiled[part](value)

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)

    def free_memory(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()
