"""How alike two pictures are, and pictures to try variants on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

LARGEST_DB = 100.0  # what identical pictures count as: a mean of decibels needs a number


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures of one shape, at most LARGEST_DB."""
    from skimage.metrics import peak_signal_noise_ratio  # only here: it takes half a second to import

    with np.errstate(divide="ignore"):  # infinite where they are equal
        return min(LARGEST_DB, float(peak_signal_noise_ratio(a, b, data_range=255)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two uint8 pictures (height, width, channels), at least 11 pixels a side: 1 if equal.

    With the settings of Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004:
    Gaussian windows of 11 x 11 with sigma 1.5, those that lie wholly inside; the mean over them, and over channels.
    """
    from skimage.metrics import structural_similarity  # only here: it takes half a second to import

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    likeness: Any = structural_similarity(a, b, data_range=255, channel_axis=-1, **settings)
    return float(likeness)


def scenes(side: int, seed: int) -> dict[str, np.ndarray]:
    """One picture of each kind, uint8, (side, side, 3), drawn four times as large, so that edges are smooth.

    The same for a seed on any machine, up to what Pillow rounds.
    """
    drawn = np.random.default_rng(seed)
    kinds = {"drawing": drawing, "lettering": lettering, "gradient": gradient, "texture": texture}
    large = {name: kind(side * 4, drawn) for name, kind in kinds.items()}
    return {name: np.asarray(one.resize((side, side), Image.Resampling.LANCZOS)) for name, one in large.items()}


def other_kinds(side: int) -> dict[str, np.ndarray]:
    """Pictures of kinds that are not among `scenes`, uint8, (side, side, 3). No variant is ever calibrated or tuned on
    them: what was made to fit the scenes shows here.
    """
    return {
        "ramps": ramps(side),
        "flat": np.full((side, side, 3), (30, 80, 160), np.uint8),
        "stripes": stripes(side),
        "night": (photograph(side) * 0.15).astype(np.uint8),
        "photograph": photograph(side),
    }


def ramps(side: int) -> np.ndarray:
    """Red to the right, green downwards, and blue on one side of a hard edge."""
    across, down = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    return (np.stack([across, down, across + down > 1], axis=-1) * 255).astype(np.uint8)


def stripes(side: int) -> np.ndarray:
    """Black and white ones, which get narrower from top to bottom: 16 pixels to 2."""
    widths = np.repeat([16, 8, 4, 2], -(-side // 4))[:side]
    across = np.arange(side)[None] // widths[:, None] % 2
    return np.repeat((across * 255).astype(np.uint8)[..., None], 3, axis=-1)


def photograph(side: int) -> np.ndarray:
    """A face and a uniform: the portrait of Grace Hopper that comes with matplotlib, in the public domain."""
    with Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")) as portrait:
        part = portrait.convert("RGB").crop((56, 30, 456, 430))
    return np.asarray(part.resize((side, side), Image.Resampling.LANCZOS))


def drawing(side: int, drawn: np.random.Generator) -> Image.Image:
    """Flat shapes with dark outlines, as in a cartoon."""
    picture = Image.new("RGB", (side, side), colour(drawn))
    pen = ImageDraw.Draw(picture)
    for number in range(14):
        (left, right), (top, bottom) = np.sort(drawn.integers(0, side, (2, 2)))
        shape = (pen.ellipse, pen.rectangle, pen.rounded_rectangle)[number % 3]
        shape((left, top, right + 1, bottom + 1), fill=colour(drawn), outline=(20, 20, 30), width=side // 64)
    for _ in range(4):
        points = [(int(x), int(y)) for x, y in drawn.integers(0, side, (4, 2))]
        pen.line(points, fill=colour(drawn), width=side // 80, joint="curve")
    return picture


def lettering(side: int, drawn: np.random.Generator) -> Image.Image:
    """Dark and light lines of letters and figures, in sizes that are just legible and larger."""
    picture = Image.new("RGB", (side, side), colour(drawn))
    pen = ImageDraw.Draw(picture)
    top = 0
    while top < side:
        size = int(drawn.integers(side // 16, side // 5))
        word = "".join(drawn.choice(list("ABEGKMRSabdegkmrstuxyz0123456789&?")) for _ in range(24))
        pen.text((int(drawn.integers(-20, 20)), top), word, fill=colour(drawn), font_size=size)
        top += int(1.15 * size)
    return picture


def gradient(side: int, drawn: np.random.Generator) -> Image.Image:
    """Soft light without an edge, where steps of brightness would show."""
    corners = drawn.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((side, side), Image.Resampling.BICUBIC)


def texture(side: int, drawn: np.random.Generator) -> Image.Image:
    """Noise in which each size of detail is as strong as in photographs: amplitude falls as one over frequency."""
    down, across = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    fall = 1 / np.maximum(np.hypot(down, across), 1 / side)
    noise = drawn.standard_normal((3, side, side))
    waves = np.fft.irfft2(np.fft.rfft2(0.3 * noise + noise[:1]) * fall, s=(side, side))
    levels = (waves - waves.mean()) / waves.std() * 45 + drawn.integers(90, 160)
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def colour(drawn: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in drawn.integers(0, 256, 3))
    return red, green, blue
