"""Style transfer: the same painting, and the same style where a painting's details differ.

Named styles and the styles of pictures, on drawn scenes and pictures of other kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from models.registry import engine_class
from models.specs import ModelSpec, VariantSpec
from models.tasks.styles import TASK, StyleEngine
from workshop.evaluation.evaluation import Answers, Evaluation, Fraction, Measure
from workshop.evaluation.pictures import other_kinds, psnr, scenes, ssim

SIDE = 128
SCENES_SEED = 1
STYLES_SEED = 7
# Every fourth of the named ones: 7 of 26.
EVERY = 4
WORKED_SIDE = 256
SCALES = 3


@cache
def contents() -> dict[str, np.ndarray]:
    """A cartoon, lettering, shapes with detail, and pictures of other kinds."""
    made, other = scenes(SIDE, SCENES_SEED), other_kinds(SIDE)
    both = ((made["drawing"].astype(np.uint16) + made["texture"]) // 2).astype(np.uint8)
    drawn = {"drawing": made["drawing"], "lettering": made["lettering"], "both": both}
    return drawn | {name: other[name] for name in ("ramps", "flat", "photograph")}


@cache
def style_pictures() -> dict[str, np.ndarray]:
    return {name: scene for name, scene in scenes(SIDE, STYLES_SEED).items() if name != "gradient"}


class StylesSubject:
    def __init__(self, engine: StyleEngine, names: tuple[str, ...]):
        self.engine = engine
        self.names = names

    def answers(self, fraction: Fraction) -> Answers:
        """Paintings by `<kind of style>/<style>/<content>`: uint8, (SIDE, SIDE, 3)."""
        styles: dict[str, str | np.ndarray] = {f"named/{name}": name for name in self.names[::EVERY]}
        styles |= {f"picture/{name}": picture for name, picture in style_pictures().items()}
        answers: dict[str, np.ndarray] = {}
        for style, given in styles.items():
            for content, picture in contents().items():
                answers[f"{style}/{content}"] = self.engine.stylize(picture, given)
            fraction(len(answers) / (len(styles) * len(contents())))
        return answers

    def work(self, batch: int, turn: int) -> Mapping[str, float]:
        """Requests in a row, as a replica works: three of four want a named style, one that of a picture."""
        for item in range(turn * batch, (turn + 1) * batch):
            picture = worked(item % 4)
            self.engine.stylize(
                picture, worked((item + 1) % 4) if item % 4 == 3 else self.names[item % len(self.names)]
            )
        return {}

    def close(self) -> None:
        pass


@cache
def worked(number: int) -> np.ndarray:
    return list(scenes(WORKED_SIDE, 50).values())[number]


def open_variant(spec: ModelSpec, variant: VariantSpec, weights: Path) -> StylesSubject:
    return StylesSubject(
        engine_class(spec.task, variant.backend).load(spec, variant, weights), TASK.settings_of(spec).styles
    )


def compare(reference: Answers, variant: Answers) -> dict[str, float]:
    named = [name for name in reference if name.startswith("named/")]
    of_pictures = [name for name in reference if name.startswith("picture/")]
    likeness = {name: psnr(reference[name], variant[name]) for name in reference}
    return {
        "psnr_named": float(np.mean([likeness[name] for name in named])),
        "psnr_pictures": float(np.mean([likeness[name] for name in of_pictures])),
        "psnr_worst": float(min(likeness.values())),
        "ssim": float(np.mean([ssim(reference[name], variant[name]) for name in reference])),
        "style_distance": float(max(style_distance(reference[name], variant[name]) for name in reference)),
    }


def style_distance(a: np.ndarray, b: np.ndarray) -> float:
    """How far two paintings are from the same colours and strokes, wherever they are: 0 if equal.

    The mean and the spread of colours, and how strong and how alike in the three colours edges of either direction are
    at several sizes: Gram matrices of simple features, after Gatys, Ecker, Bethge, 2015,
    https://arxiv.org/abs/1508.06576. Relative to those of `a`.
    """
    wanted, found = looks(a), looks(b)
    return float(np.linalg.norm(wanted - found) / np.linalg.norm(wanted))


def looks(picture: np.ndarray) -> np.ndarray:
    pixels = picture.astype(np.float64) / 255
    found = [pixels.mean((0, 1)), pixels.std((0, 1))]
    for _ in range(SCALES):
        steps = [np.diff(pixels, axis=axis)[: pixels.shape[0] - 1, : pixels.shape[1] - 1] for axis in (0, 1)]
        features = np.concatenate(steps, axis=2).reshape(-1, 6)
        # The root brings strengths, which are squares, to the size of the colours'.
        gram = features.T @ features / len(features)
        found.append(np.sign(gram.ravel()) * np.sqrt(np.abs(gram.ravel())))
        height, width = (side // 2 * 2 for side in pixels.shape[:2])
        pixels = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    return np.concatenate(found)


EVALUATION = Evaluation(
    measures={
        "psnr_named": Measure(
            "PSNR, named",
            "Peak signal-to-noise ratio to the reference's paintings in named styles; mean of 42.",
            True,
            " dB",
        ),
        "psnr_pictures": Measure("PSNR, of pictures", "The same in the styles of pictures; mean of 18.", True, " dB"),
        "psnr_worst": Measure("Worst PSNR", "Of the painting that differs most.", True, " dB"),
        "ssim": Measure("SSIM", "Structural similarity to the reference's paintings (Wang et al., 2004); mean.", True),
        "style_distance": Measure(
            "Style distance",
            "Of colours, and of edges by direction and size wherever they are, relative; of the painting farthest off.",
            False,
        ),
    },
    item="picture",
    open=open_variant,
    compare=compare,
)
