"""NudeNet, a YOLOv8 that finds parts of the body: https://github.com/notAI-tech/NudeNet"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.safety.policy import Verdict

SIDE = 320
# The numbers of those of its 18 classes that withhold a picture.
EXPOSED = {
    2: "buttocks exposed",
    3: "female breast exposed",
    4: "female genitalia exposed",
    6: "anus exposed",
    14: "male genitalia exposed",
}
FIRST_CLASS = 4  # after the four coordinates of a box


class NudeNet:
    name = "nudenet"

    def __init__(self, folder: Path, threshold: float):
        from models.engines.onnx_session import open_session

        self.threshold = threshold
        self.session = open_session(folder / "320n.onnx")

    def judge(self, pixels: np.ndarray) -> Verdict:
        found = self.scores(pixels)
        scores = {part: float(found[number]) for number, part in EXPOSED.items()}
        return Verdict(max(scores.values()) >= self.threshold, self.name, scores)

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """The highest score of each class anywhere in the picture: shape (18,).

        YOLOv8 is trained on RGB, and NudeNet's own code gives it BGR. Both are tried, and the higher score counts.
        """
        rgb = bilinear(squared(pixels), SIDE).astype(np.float32) / 255
        batch = np.stack((rgb, rgb[:, :, ::-1])).transpose(0, 3, 1, 2)
        found = np.asarray(self.session.run(None, {"images": np.ascontiguousarray(batch)})[0])
        scores = found[:, FIRST_CLASS:].max((0, 2))
        if not np.all((scores >= 0) & (scores <= 1)):
            raise ValueError("the network gave no probabilities")
        return scores


def squared(pixels: np.ndarray) -> np.ndarray:
    """Black added at the bottom or the right."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    return np.pad(pixels, ((0, side - height), (0, side - width), (0, 0)))


def bilinear(square: np.ndarray, side: int) -> np.ndarray:
    """Bilinear resizing without antialiasing, as in OpenCV and NudeNet's own code."""
    length = len(square)
    at = ((np.arange(side) + 0.5) * length / side - 0.5).clip(0, length - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, length - 1), at - low
    rows = square[low] * (1 - share)[:, None, None] + square[high] * share[:, None, None]
    mixed = rows[:, low] * (1 - share)[:, None] + rows[:, high] * share[:, None]
    return np.rint(mixed).astype(np.uint8)
