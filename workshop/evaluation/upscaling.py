"""Upscaling: the same picture, and no farther from the truth than the reference is.

The set: drawn cartoons, lettering, soft light and texture, and pictures of other kinds, such as a photograph. Each is
made four times smaller first, so that the truth is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from models.registry import engine_class
from models.specs import ModelSpec, VariantSpec
from models.tasks.upscaling import UpscalingEngine
from workshop.evaluation.evaluation import Answers, Evaluation, Fraction, Measure
from workshop.evaluation.pictures import other_kinds, psnr, scenes, ssim

SEEDS = (4, 5, 6)  # none that a variant was tuned or calibrated on
SIDE = 64
SCALE = 4
# Of one typical request. A picture of a megapixel takes seconds on a CPU core, in proportion.
WORKED_SIDE = 96


@cache
def truths() -> dict[str, np.ndarray]:
    drawn = {f"{name}_{seed}": scene for seed in SEEDS for name, scene in scenes(SIDE * SCALE, seed).items()}
    return drawn | other_kinds(SIDE * SCALE)


def shrunk(picture: np.ndarray) -> np.ndarray:
    """SCALE times smaller: the mean of each block of pixels."""
    height, width, _ = picture.shape
    blocks = picture.reshape(height // SCALE, SCALE, width // SCALE, SCALE, 3)
    return (blocks.mean((1, 3)) + 0.5).astype(np.uint8)


class UpscalingSubject:
    def __init__(self, engine: UpscalingEngine):
        self.engine = engine

    def answers(self, fraction: Fraction) -> Answers:
        """Each picture of the set, upscaled: uint8, (SIDE * SCALE, SIDE * SCALE, 3)."""
        answers = {}
        for name, truth in truths().items():
            answers[name] = self.engine.upscale(shrunk(truth))
            fraction(len(answers) / len(truths()))
        return answers

    def work(self, batch: int, turn: int) -> Mapping[str, float]:
        """The engine takes one picture at a time: `batch` requests are worked on in a row, as a replica does."""
        for item in range(batch):
            self.engine.upscale(worked((turn * batch + item) % 4))
        return {}

    def close(self) -> None:
        pass


@cache
def worked(number: int) -> np.ndarray:
    return list(scenes(WORKED_SIDE, 50).values())[number]


def open_variant(spec: ModelSpec, variant: VariantSpec, weights: Path) -> UpscalingSubject:
    return UpscalingSubject(engine_class(spec.task, variant.backend).load(spec, variant, weights))


def compare(reference: Answers, variant: Answers) -> dict[str, float]:
    pairs = [(reference[name], variant[name]) for name in truths()]
    likeness = [psnr(a, b) for a, b in pairs]
    detailed = {
        name: truth for name, truth in truths().items() if truth.std((0, 1)).any()
    }  # of a flat one nothing can be lost
    truth = [
        np.mean([psnr(answers[name], wanted) for name, wanted in detailed.items()]) for answers in (reference, variant)
    ]
    return {
        "psnr": float(np.mean(likeness)),
        "psnr_worst": float(min(likeness)),
        "ssim": float(np.mean([ssim(a, b) for a, b in pairs])),
        "truth_lost": float(truth[0] - truth[1]),
        "colour_shift": float(max(np.abs(a.mean((0, 1)) - b.mean((0, 1))).max() for a, b in pairs)),
    }


EVALUATION = Evaluation(
    measures={
        "psnr": Measure("PSNR", "Peak signal-to-noise ratio to the reference's pictures; mean of 17.", True, " dB"),
        "psnr_worst": Measure("Worst PSNR", "The same, of the picture that differs most.", True, " dB"),
        "ssim": Measure("SSIM", "Structural similarity to the reference's pictures (Wang et al., 2004); mean.", True),
        "truth_lost": Measure(
            "Truth lost",
            "How many dB farther from the true pictures than the reference; below 0 is nearer.",
            False,
            " dB",
        ),
        "colour_shift": Measure("Colour shift", "The most that the mean of a colour moved, of 255.", False),
    },
    item="picture",
    open=open_variant,
    compare=compare,
)
