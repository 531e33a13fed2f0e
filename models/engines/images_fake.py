"""Images without a model: for tests, and to try a cluster without weights."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from PIL import ImageColor

from models.errors import InvalidRequest
from models.specs import ModelSpec, VariantSpec
from models.tasks.images import Picture


@dataclass(slots=True, eq=False)
class FakeDenoising:
    picture: Picture
    steps: int
    batch_key: Hashable = None
    step: int = 0
    prompt_tokens: int = 0
    log: list[int] = field(default_factory=list)


class Engine:
    """Deterministic pictures without a model: the first colour word of the prompt, mixed with seeded noise that
    fades with every step. `batches` records how many pictures shared each step."""

    schedulers = ("fake", "other")

    def __init__(self) -> None:
        self.batches: list[int] = []

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        return cls()

    def largest_batch(self, width: int, height: int) -> int:
        return 8 if width * height <= 1 << 20 else 0

    def start(self, picture: Picture) -> FakeDenoising:
        if "unspeakable" in picture.prompt:
            raise InvalidRequest("The fake does not know that word.", "prompt")
        steps = picture.steps if picture.image is None else max(1, round(picture.steps * picture.strength))
        key = (picture.width, picture.height, picture.adapters)
        return FakeDenoising(picture, steps, key, prompt_tokens=len(picture.prompt.split()))

    def step(self, batch: Sequence[FakeDenoising]) -> None:
        self.batches.append(len(batch))
        for denoising in batch:
            denoising.step += 1

    def preview(self, denoising: FakeDenoising) -> np.ndarray:
        picture = denoising.picture
        noise = np.random.default_rng(picture.seed).integers(0, 256, (picture.height, picture.width, 3))
        colour = np.full_like(noise, 1) * np.array(colour_in(picture.prompt))
        if picture.image is not None and not picture.prompt:
            colour = picture.image
        share = 0.9 * denoising.step / denoising.steps
        return (share * colour + (1 - share) * noise).astype(np.uint8)

    def finish(self, batch: Sequence[FakeDenoising]) -> list[np.ndarray]:
        return [self.preview(denoising) for denoising in batch]


def colour_in(prompt: str) -> tuple[int, int, int]:
    """The first word that is a CSS colour, else grey."""
    for word in prompt.lower().split():
        if word in ImageColor.colormap:
            red, green, blue = ImageColor.getrgb(word)[:3]
            return red, green, blue
    return 128, 128, 128
