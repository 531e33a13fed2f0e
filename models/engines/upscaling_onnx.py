"""Upscaling on ONNX Runtime. Imports no torch."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime
from onnxruntime import InferenceSession

from models.engines.onnx_session import open_session_of
from models.engines.upscaling_tiles import SCALE, TiledUpscaling
from models.specs import ModelSpec, VariantSpec
from models.tasks.upscaling import TASK

SECONDS_BETWEEN_LOOKS = 0.02
OF_THE_SESSION = ("provider", "threads")


class Engine(TiledUpscaling):
    """
    The folder has draw.onnx, whose output is uint8 pixels; trunk.onnx, for networks with a first part; and config.json,
    with the reach of each. The input of the first is uint8 pixels.
    """

    def __init__(self, folder: Path, variant: VariantSpec):
        super().__init__(**{name: value for name, value in variant.engine.items() if name not in OF_THE_SESSION})
        self.config = json.loads((folder / "config.json").read_text())
        trunk = folder / "trunk.onnx"
        self.trunk_session = open_session_of(variant, trunk) if trunk.exists() else None
        self.draw_session = open_session_of(variant, folder / "draw.onnx")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="upscaling")

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        if (scale := TASK.settings_of(spec).scale) != SCALE:
            raise ValueError(f"these networks enlarge {SCALE} times, not {scale}")
        return cls(weights, variant)

    @property
    def reaches(self) -> tuple[int, int]:
        return self.config["trunk_reach"], self.config["draw_reach"]

    def trunk(self, pixels: np.ndarray) -> np.ndarray:
        return pixels if self.trunk_session is None else self._run(self.trunk_session, pixels)

    def draw(self, features: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """Features have the shape (1, channels, height, width), and pixels (height, width, 3)."""
        part = features[rows, columns] if features.ndim == 3 else features[:, :, rows, columns]
        return self._run(self.draw_session, part)

    def _run(self, session: InferenceSession, value: np.ndarray) -> np.ndarray:
        """One run. ONNX Runtime does not report layers, so `on_layer` is called at short intervals instead."""
        options = onnxruntime.RunOptions()
        inputs = {session.get_inputs()[0].name: np.ascontiguousarray(value)}
        self._on_layer()
        running = self._thread.submit(session.run, None, inputs, options)
        try:
            while not running.done():
                wait([running], timeout=SECONDS_BETWEEN_LOOKS)
                self._on_layer()
        finally:
            # Does nothing after the last layer.
            options.terminate = True
            wait([running])
        return np.asarray(running.result()[0])

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError) or "Failed to allocate memory" in str(error)
