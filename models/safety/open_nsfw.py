"""Yahoo's Open NSFW, a ResNet-50 that was trained on photographs: https://github.com/yahoo/open_nsfw"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from models.safety.policy import Verdict

READ_SIDE, SIDE = 256, 224
MEAN_BGR = np.array([104, 117, 123], np.float32)


class OpenNsfw:
    name = "open-nsfw"

    def __init__(self, folder: Path, threshold: float):
        from models.engines.onnx_session import open_session

        self.threshold = threshold
        self.session = open_session(folder / "open-nsfw.onnx")

    def judge(self, pixels: np.ndarray) -> Verdict:
        ((_, score),) = np.asarray(self.session.run(None, {"input:0": as_trained(pixels)[None]})[0])
        if not 0 <= score <= 1:
            raise ValueError("the network gave no probability")
        return Verdict(bool(score >= self.threshold), self.name, {"nsfw": float(score)})


def as_trained(pixels: np.ndarray) -> np.ndarray:
    """The picture as Yahoo's own code prepares it, through a jpeg file and all: float32, BGR, shape (224, 224, 3)."""
    margin = (READ_SIDE - SIDE) // 2
    small = Image.fromarray(pixels).resize((READ_SIDE, READ_SIDE), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    small.crop((margin, margin, margin + SIDE, margin + SIDE)).save(file, "JPEG")
    return np.asarray(Image.open(file), np.float32)[:, :, ::-1] - MEAN_BGR
